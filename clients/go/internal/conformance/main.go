// Conformance makes the calls of the cases in clients/conformance: it reads one request in JSON on each line, and prints
// one result in JSON on each line.
package main

import (
	"bufio"
	"encoding/json"
	"log"
	"os"
)

func main() {
	log.SetFlags(0)
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 64<<20)
	out := json.NewEncoder(os.Stdout)
	out.SetEscapeHTML(false)
	for lines.Scan() {
		var asked call
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			log.Fatal("a line is not a request: ", err)
		}
		if err := out.Encode(asked.result()); err != nil {
			log.Fatal(err)
		}
	}
	if err := lines.Err(); err != nil {
		log.Fatal(err)
	}
}

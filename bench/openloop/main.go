// Make calls at a fixed rate, whatever has been answered, and record each of them: openloop JOB
//
// JOB is a JSON file; see the type job. Before the load the program prints a line with its local ports, and reads a
// line with the numbers of the connections to keep. Then it prints when the load began, in nanoseconds since 1970. At
// the end it writes a record of 24 bytes for each call, little-endian: when it was due after the beginning and how
// long it took from then on, both in nanoseconds (int64); the number of its request (int32); its status (int16); and
// its verdict (int16).
package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"strings"
	"time"
)

// job says what to call, and how.
type job struct {
	Address     string  // HOST:PORT
	Protocol    string  // "grpc", or "json": HTTP/1.1, with one call at a time on a connection
	Path        string  // of the method
	Caller      string  // the value of the header authorization
	Requests    string  // a file of bodies, each after its length as 4 bytes, little-endian
	Probes      int     // how many requests at the end of the file are probes
	ProbeEvery  int     // every n-th call is a probe
	Rate        float64 // calls a second
	Seconds     float64 // how long calls are due; 0: each request once
	AtOnce      int     // 0: by the clock; else a closed loop with so many calls at a time, and no rate
	Connections int     // how many connections are made first
	Patience    float64 // the most seconds to wait for responses at the end
	Log         string  // the file for the records
}

// Status codes: gRPC's, those of HTTP from 200 on as they are, and these.
const (
	statusOK         = 0
	statusReset      = 113 // the server reset the stream
	statusLost       = 114 // the connection ended first
	statusUnanswered = 115 // there was no response until the end
)

// Verdicts.
const (
	verdictNone    = 0
	verdictGranted = 1
	verdictDenied  = 2
	verdictBusy    = 3 // an error with the reason BUSY
)

func main() {
	log.SetFlags(0)
	var wanted job
	content, err := os.ReadFile(os.Args[1])
	check(err)
	check(json.Unmarshal(content, &wanted))
	bodies := readBodies(wanted.Requests)
	records := newRecords(wanted, len(bodies))
	pool := newPool(wanted, bodies, records)
	pool.connect()
	pool.keep(chosen(pool.ports()))
	records.begin = time.Now()
	fmt.Println(records.begin.UnixNano())
	if wanted.AtOnce > 0 {
		pool.closedLoop(wanted.AtOnce, len(bodies))
	} else {
		pool.openLoop(newOrder(wanted, len(bodies)), wanted.Rate, records.calls())
	}
	records.await(time.Duration(wanted.Patience * float64(time.Second)))
	check(records.write(wanted.Log))
}

// chosen prints the ports and returns the numbers of the connections that the reader of them wants.
func chosen(ports []int) []int {
	fmt.Println(strings.Trim(fmt.Sprint(ports), "[]"))
	line, err := bufio.NewReader(os.Stdin).ReadString('\n')
	check(err)
	var numbers []int
	for _, field := range strings.Fields(line) {
		var number int
		_, err := fmt.Sscan(field, &number)
		check(err)
		numbers = append(numbers, number)
	}
	return numbers
}

func readBodies(file string) [][]byte {
	content, err := os.ReadFile(file)
	check(err)
	var bodies [][]byte
	for len(content) > 0 {
		size := binary.LittleEndian.Uint32(content)
		bodies = append(bodies, content[4:4+size])
		content = content[4+size:]
	}
	return bodies
}

// order returns the requests of one call after another: all in random order, then all in another one; and the probes,
// in turn, in between.
type order struct {
	permutation        []int
	place, calls       int
	requests           int
	probes, probeEvery int
}

func newOrder(wanted job, requests int) *order {
	return &order{requests: requests - wanted.Probes, probes: wanted.Probes, probeEvery: wanted.ProbeEvery}
}

func (o *order) next() int {
	o.calls++
	if o.probes > 0 && o.calls%o.probeEvery == 0 {
		return o.requests + o.calls/o.probeEvery%o.probes
	}
	if o.place == len(o.permutation) {
		o.permutation, o.place = rand.Perm(o.requests), 0
	}
	o.place++
	return o.permutation[o.place-1]
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
)

// jsonConnection is a connection of HTTP/1.1, with one call at a time.
type jsonConnection struct {
	pool   *pool
	socket net.Conn
	head   string

	lock sync.Mutex
	busy bool
	call call
	over bool
}

func dialJSON(p *pool) (carrier, error) {
	socket, err := net.Dial("tcp", p.wanted.Address)
	if err != nil {
		return nil, err
	}
	head := "POST " + p.wanted.Path + " HTTP/1.1\r\nhost: " + p.wanted.Address + "\r\nauthorization: " +
		p.wanted.Caller + "\r\ncontent-type: application/json\r\ncontent-length: "
	c := &jsonConnection{pool: p, socket: socket, head: head}
	go c.read()
	return c, nil
}

func (c *jsonConnection) port() int {
	return c.socket.LocalAddr().(*net.TCPAddr).Port
}

func (c *jsonConnection) close() {
	c.lock.Lock()
	c.over = true
	c.lock.Unlock()
	c.socket.Close()
}

func (c *jsonConnection) send(next call) bool {
	c.lock.Lock()
	defer c.lock.Unlock()
	if c.busy || c.over {
		return false
	}
	c.busy, c.call = true, next
	_, _ = fmt.Fprintf(c.socket, "%s%d\r\n\r\n%s", c.head, len(next.body), next.body)
	return true
}

func (c *jsonConnection) read() {
	reader := bufio.NewReader(c.socket)
	for {
		status, body, err := response(reader)
		c.lock.Lock()
		had, number := c.busy, c.call.number
		c.busy = false
		c.over = c.over || err != nil
		c.lock.Unlock()
		if err != nil {
			if had {
				c.pool.ended(number, statusLost, verdictNone)
			}
			c.socket.Close()
			c.pool.replace(c)
			return
		}
		verdict := int16(verdictDenied)
		if bytes.Contains(body, []byte(`"granted":true`)) {
			verdict = verdictGranted
		}
		if status == 200 {
			status = statusOK
		}
		c.pool.ended(number, status, verdict)
		c.pool.ready()
	}
}

// response returns the status and the body of the next response.
func response(reader *bufio.Reader) (int16, []byte, error) {
	status, length := 0, 0
	for first := true; ; first = false {
		line, err := reader.ReadString('\n')
		if err != nil {
			return 0, nil, err
		}
		line = strings.TrimSpace(line)
		if line == "" {
			break
		}
		if first {
			status, err = strconv.Atoi(strings.Fields(line)[1])
		} else if name, value, _ := strings.Cut(line, ":"); strings.EqualFold(name, "content-length") {
			length, err = strconv.Atoi(strings.TrimSpace(value))
		}
		if err != nil {
			return 0, nil, err
		}
	}
	body := make([]byte, length)
	_, err := io.ReadFull(reader, body)
	return int16(status), body, err
}

package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/net/http2/hpack"
)

// Frames and settings of HTTP/2 (RFC 9113).
const (
	frameData, frameHeaders, frameReset, frameSettings          = 0, 1, 3, 4
	framePing, frameGoAway, frameWindow, frameContinuation      = 6, 7, 8, 9
	flagEndStream, flagAck, flagEndHeaders, flagPadded          = 1, 1, 4, 8
	flagPriority                                                = 32
	settingTable, settingStreams, settingWindow                 = 1, 3, 4
	refusedStream                                               = 7
	preface                                                     = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	defaultWindow, largeWindow, windowStep                      = 65535, 1 << 30, 1 << 24
	mostStreams                                                 = 100
	grantedTag, deniedTag                                  byte = 0x0a, 0x12 // of AuthorizeResponse
)

// stream is a call that is under way.
type stream struct {
	call
	received        int // bytes of data
	verdict, status int16
}

// grpcConnection is a connection with many calls at a time. The pool's lock guards what sends.
type grpcConnection struct {
	pool   *pool
	socket net.Conn

	lock     sync.Mutex
	streams  map[uint32]*stream
	next     uint32
	window   int // bytes of data that may be sent
	most     int
	draining bool
	ended    bool
	headers  bytes.Buffer
	encoder  *hpack.Encoder
	fields   []hpack.HeaderField

	decoder  *hpack.Decoder
	current  *stream // whose headers are read
	unread   int     // received bytes that were not reported to the server
	fragment []byte
}

func dialGRPC(p *pool) (carrier, error) {
	socket, err := net.Dial("tcp", p.wanted.Address)
	if err != nil {
		return nil, err
	}
	c := &grpcConnection{
		pool: p, socket: socket, streams: map[uint32]*stream{}, next: 1, window: defaultWindow, most: mostStreams,
	}
	c.encoder = hpack.NewEncoder(&c.headers)
	c.decoder = hpack.NewDecoder(4096, c.field)
	for _, pair := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", p.wanted.Path}, {":authority", p.wanted.Address},
		{"content-type", "application/grpc"}, {"te", "trailers"}, {"authorization", p.wanted.Caller},
	} {
		c.fields = append(c.fields, hpack.HeaderField{Name: pair[0], Value: pair[1]})
	}
	start := []byte(preface)
	start = appendFrame(start, frameSettings, 0, 0, binary.BigEndian.AppendUint32([]byte{0, settingWindow}, largeWindow))
	start = appendFrame(start, frameWindow, 0, 0, binary.BigEndian.AppendUint32(nil, largeWindow))
	if _, err := socket.Write(start); err != nil {
		return nil, err
	}
	// The server's settings say how much it takes: wait for them.
	reader := bufio.NewReaderSize(socket, 1<<16)
	if err := c.frame(reader); err != nil {
		return nil, err
	}
	go c.read(reader)
	return c, nil
}

func (c *grpcConnection) port() int {
	return c.socket.LocalAddr().(*net.TCPAddr).Port
}

func (c *grpcConnection) close() {
	c.lock.Lock()
	c.draining = true
	c.lock.Unlock()
	c.socket.Close()
}

func (c *grpcConnection) send(next call) bool {
	c.lock.Lock()
	defer c.lock.Unlock()
	size := 5 + len(next.body)
	if c.draining || c.ended || len(c.streams) >= c.most || c.window < size {
		return false
	}
	id := c.next
	c.next += 2
	c.window -= size
	c.streams[id] = &stream{call: next, status: -1}
	c.headers.Reset()
	for _, field := range c.fields {
		_ = c.encoder.WriteField(field) // a buffer takes everything
	}
	out := appendFrame(nil, frameHeaders, flagEndHeaders, id, c.headers.Bytes())
	data := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(next.body))), next.body...)
	out = appendFrame(out, frameData, flagEndStream, id, data)
	_, _ = c.socket.Write(out) // the reader sees it when the connection has ended
	return true
}

// read reads frames until the connection ends.
func (c *grpcConnection) read(reader *bufio.Reader) {
	for c.frame(reader) == nil {
	}
	c.lock.Lock()
	c.ended = true
	lost := c.streams
	c.streams = map[uint32]*stream{}
	c.lock.Unlock()
	c.socket.Close()
	for _, each := range lost {
		c.pool.ended(each.number, statusLost, verdictNone)
	}
	c.pool.replace(c)
}

func (c *grpcConnection) frame(reader *bufio.Reader) error {
	var head [9]byte
	if _, err := io.ReadFull(reader, head[:]); err != nil {
		return err
	}
	payload := make([]byte, int(head[0])<<16|int(head[1])<<8|int(head[2]))
	if _, err := io.ReadFull(reader, payload); err != nil {
		return err
	}
	kind, flags, id := head[3], head[4], binary.BigEndian.Uint32(head[5:])&(1<<31-1)
	switch kind {
	case frameData:
		c.data(id, flags, payload)
	case frameHeaders, frameContinuation:
		return c.headersOf(kind, flags, id, payload)
	case frameReset:
		c.reset(id, binary.BigEndian.Uint32(payload))
	case frameSettings:
		if flags&flagAck == 0 {
			c.settings(payload)
		}
	case framePing:
		if flags&flagAck == 0 {
			c.write(appendFrame(nil, framePing, flagAck, 0, payload))
		}
	case frameGoAway:
		c.goAway(binary.BigEndian.Uint32(payload) & (1<<31 - 1))
	case frameWindow:
		if id == 0 {
			c.lock.Lock()
			c.window += int(binary.BigEndian.Uint32(payload))
			c.lock.Unlock()
			c.pool.ready()
		}
	}
	return nil
}

func (c *grpcConnection) data(id uint32, flags byte, payload []byte) {
	c.unread += len(payload)
	if c.unread > windowStep {
		c.write(appendFrame(nil, frameWindow, 0, 0, binary.BigEndian.AppendUint32(nil, uint32(c.unread))))
		c.unread = 0
	}
	each := c.stream(id)
	if each == nil {
		return
	}
	if place := 5 - each.received; place >= 0 && place < len(payload) {
		switch payload[place] {
		case grantedTag:
			each.verdict = verdictGranted
		case deniedTag:
			each.verdict = verdictDenied
		}
	}
	each.received += len(payload)
	if flags&flagEndStream != 0 {
		c.end(id)
	}
}

func (c *grpcConnection) headersOf(kind, flags byte, id uint32, payload []byte) error {
	if kind == frameHeaders {
		if flags&flagPadded != 0 {
			payload = payload[1 : len(payload)-int(payload[0])]
		}
		if flags&flagPriority != 0 {
			payload = payload[5:]
		}
		c.fragment = nil
	}
	c.fragment = append(c.fragment, payload...)
	if flags&flagEndHeaders == 0 {
		return nil
	}
	c.current = c.stream(id)
	if _, err := c.decoder.Write(c.fragment); err != nil {
		return err
	}
	if err := c.decoder.Close(); err != nil {
		return err
	}
	if kind == frameHeaders && flags&flagEndStream != 0 {
		c.end(id)
	}
	return nil
}

// field takes a header or trailer of the current stream.
func (c *grpcConnection) field(found hpack.HeaderField) {
	if c.current == nil {
		return
	}
	switch found.Name {
	case ":status":
		if code, err := strconv.Atoi(found.Value); err == nil && code != 200 {
			c.current.status = int16(code)
		}
	case "grpc-status":
		if code, err := strconv.Atoi(found.Value); err == nil {
			c.current.status = int16(code)
		}
	case "grpc-status-details-bin":
		details, _ := base64.RawStdEncoding.DecodeString(strings.TrimRight(found.Value, "="))
		if bytes.Contains(details, []byte("BUSY")) {
			c.current.verdict = verdictBusy
		}
	}
}

func (c *grpcConnection) stream(id uint32) *stream {
	c.lock.Lock()
	defer c.lock.Unlock()
	return c.streams[id]
}

// take removes a stream and returns it, or nil.
func (c *grpcConnection) take(id uint32) *stream {
	c.lock.Lock()
	defer c.lock.Unlock()
	each := c.streams[id]
	delete(c.streams, id)
	return each
}

func (c *grpcConnection) end(id uint32) {
	if each := c.take(id); each != nil {
		if each.status == -1 {
			each.status = statusReset
		}
		c.pool.ended(each.number, each.status, each.verdict)
		c.pool.ready()
	}
}

func (c *grpcConnection) reset(id uint32, code uint32) {
	each := c.take(id)
	switch {
	case each == nil:
	case code == refusedStream:
		c.pool.again([]call{each.call})
	default:
		c.pool.ended(each.number, statusReset, verdictNone)
		c.pool.ready()
	}
}

// goAway sends calls again that the server will not look at, as gRPC's clients do.
func (c *grpcConnection) goAway(last uint32) {
	var refused []call
	c.lock.Lock()
	c.draining = true
	for id, each := range c.streams {
		if id > last {
			refused = append(refused, each.call)
			delete(c.streams, id)
		}
	}
	c.lock.Unlock()
	c.pool.replace(c)
	c.pool.again(refused)
}

func (c *grpcConnection) settings(payload []byte) {
	c.lock.Lock()
	for ; len(payload) >= 6; payload = payload[6:] {
		value := binary.BigEndian.Uint32(payload[2:])
		switch binary.BigEndian.Uint16(payload) {
		case settingStreams:
			c.most = min(mostStreams, int(value))
		case settingTable:
			c.encoder.SetMaxDynamicTableSizeLimit(value)
		}
	}
	c.lock.Unlock()
	c.write(appendFrame(nil, frameSettings, flagAck, 0, nil))
}

func (c *grpcConnection) write(frame []byte) {
	c.lock.Lock()
	defer c.lock.Unlock()
	_, _ = c.socket.Write(frame)
}

func appendFrame(to []byte, kind, flags byte, id uint32, payload []byte) []byte {
	to = append(to, byte(len(payload)>>16), byte(len(payload)>>8), byte(len(payload)), kind, flags)
	return append(binary.BigEndian.AppendUint32(to, id), payload...)
}

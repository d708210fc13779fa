package main

import (
	"runtime"
	"sync"
	"syscall"
	"time"
)

const redialPause = 50 * time.Millisecond

// call is one that is due.
type call struct {
	number int
	body   []byte
}

// carrier is a connection.
type carrier interface {
	send(call) bool // false: not now
	port() int
	close()
}

// pool spreads calls over connections, in turn. Calls that no connection takes wait in a queue.
type pool struct {
	wanted  job
	bodies  [][]byte
	records *records

	lock   sync.Mutex
	all    []carrier
	turn   int
	queue  []call
	closed chan struct{} // receives when a call of a closed loop has ended
}

func newPool(wanted job, bodies [][]byte, records *records) *pool {
	return &pool{wanted: wanted, bodies: bodies, records: records, closed: make(chan struct{}, 1<<16)}
}

func (p *pool) dial() (carrier, error) {
	if p.wanted.Protocol == "json" {
		return dialJSON(p)
	}
	return dialGRPC(p)
}

func (p *pool) connect() {
	for range p.wanted.Connections {
		each, err := p.dial()
		check(err)
		p.all = append(p.all, each)
	}
}

func (p *pool) ports() []int {
	var found []int
	for _, each := range p.all {
		found = append(found, each.port())
	}
	return found
}

// keep closes all connections but these.
func (p *pool) keep(numbers []int) {
	kept := map[int]bool{}
	var left []carrier
	p.lock.Lock()
	all := p.all
	for _, number := range numbers {
		kept[number] = true
		left = append(left, all[number])
	}
	p.all = left
	p.lock.Unlock()
	for number, each := range all {
		if !kept[number] {
			each.close()
		}
	}
}

// openLoop starts calls by the clock.
func (p *pool) openLoop(requests *order, rate float64, calls int) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for number := range calls {
		due := time.Duration(float64(number) * float64(time.Second) / rate)
		// The runtime's own timers are exact to a millisecond only.
		for wait := due - time.Since(p.records.begin); wait > 0; wait = due - time.Since(p.records.begin) {
			pause := syscall.NsecToTimespec(int64(wait))
			_ = syscall.Nanosleep(&pause, nil)
		}
		p.start(number, requests.next(), due)
	}
}

// closedLoop makes each request once, with so many calls at a time.
func (p *pool) closedLoop(atOnce, calls int) {
	for number := range calls {
		if number >= atOnce {
			<-p.closed
		}
		p.start(number, number, time.Since(p.records.begin))
	}
}

func (p *pool) start(number, request int, due time.Duration) {
	p.records.start(number, request, due)
	p.lock.Lock()
	defer p.lock.Unlock()
	next := call{number, p.bodies[request]}
	if len(p.queue) > 0 || !p.offer(next) {
		p.queue = append(p.queue, next)
	}
}

// offer gives a call to the next connection that takes it. The lock is held.
func (p *pool) offer(next call) bool {
	for range p.all {
		p.turn = (p.turn + 1) % len(p.all)
		if p.all[p.turn].send(next) {
			return true
		}
	}
	return false
}

// ended notes the result of a call.
func (p *pool) ended(number int, status, verdict int16) {
	p.records.end(number, status, verdict)
	if p.wanted.AtOnce > 0 {
		p.closed <- struct{}{}
	}
}

// ready sends calls that wait, after a connection can take more.
func (p *pool) ready() {
	p.lock.Lock()
	defer p.lock.Unlock()
	for len(p.queue) > 0 && p.offer(p.queue[0]) {
		p.queue = p.queue[1:]
	}
}

// again puts calls that the server has not looked at before all others.
func (p *pool) again(calls []call) {
	p.lock.Lock()
	p.queue = append(append([]call{}, calls...), p.queue...)
	p.lock.Unlock()
	p.ready()
}

// replace makes a new connection in place of one that takes no more calls.
func (p *pool) replace(old carrier) {
	p.lock.Lock()
	known := false
	for place, each := range p.all {
		if each == old {
			known = true
			p.all = append(p.all[:place:place], p.all[place+1:]...)
			break
		}
	}
	p.lock.Unlock()
	if !known {
		return
	}
	go func() {
		for {
			each, err := p.dial()
			if err == nil {
				p.lock.Lock()
				p.all = append(p.all, each)
				p.lock.Unlock()
				p.ready()
				return
			}
			time.Sleep(redialPause)
		}
	}()
}

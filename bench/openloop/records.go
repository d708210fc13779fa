package main

import (
	"bufio"
	"encoding/binary"
	"os"
	"sync/atomic"
	"time"
)

// record is what is written of a call.
type record struct {
	Due, Took int64
	Request   int32
	Status    int16
	Verdict   int16
}

// records has a place for each call.
type records struct {
	begin time.Time
	all   []record
	ended atomic.Int64
	wake  chan struct{}
}

func newRecords(wanted job, requests int) *records {
	calls := requests
	if wanted.AtOnce == 0 && wanted.Seconds > 0 {
		calls = int(wanted.Rate * wanted.Seconds)
	}
	all := make([]record, calls)
	for number := range all {
		all[number].Status = statusUnanswered
	}
	return &records{all: all, wake: make(chan struct{}, 1)}
}

func (r *records) calls() int {
	return len(r.all)
}

// start notes that a call is due, before it is sent.
func (r *records) start(number, request int, due time.Duration) {
	r.all[number].Due, r.all[number].Request = int64(due), int32(request)
}

// end notes the result of a call.
func (r *records) end(number int, status, verdict int16) {
	each := &r.all[number]
	each.Took = int64(time.Since(r.begin)) - each.Due
	each.Status, each.Verdict = status, verdict
	if r.ended.Add(1) == int64(len(r.all)) {
		r.wake <- struct{}{}
	}
}

// await returns when all calls have ended, or after a while.
func (r *records) await(patience time.Duration) {
	select {
	case <-r.wake:
	case <-time.After(patience):
	}
}

func (r *records) write(name string) error {
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	defer file.Close()
	writer := bufio.NewWriterSize(file, 1<<20)
	if err := binary.Write(writer, binary.LittleEndian, r.all); err != nil {
		return err
	}
	return writer.Flush()
}

package store

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/muster-pki/muster/gateway/audit"
)

const (
	shipBound   = 5 * time.Second // for how long a commit waits for the sinks, and one Write takes
	shipBatch   = 256             // records of one Write
	shipIdle    = 2 * time.Second // between two looks at a sink that has everything, and at what is to be saved
	shipSave    = 1000            // records after which the cursor is saved, whatever else happens
	retrySoon   = 50 * time.Millisecond
	retrySeldom = 2 * time.Second
)

// shipping is what is shipped to whom; it never changes.
type shipping []*shipper

// shipper has one sink get this instance's stream, in order, from the table.
type shipper struct {
	s    *Store
	sink audit.Sink
	wake chan struct{}      // holds one element when there is something new
	stop context.CancelFunc // ends run
	done chan struct{}      // closed when run has ended

	looked chan struct{} // closed when it is known for the first time how the sink is

	saved int64 // what the table says of at; run's alone

	mu    sync.Mutex
	at    int64         // the sink has all up to this record
	moved chan struct{} // closed, and replaced, when anything here changes
	need  int64         // it is behind until it has this one
	err   error         // of the last Write, nil when that went well
	since time.Time     // it is behind, or fails; zero: it is not
}

// ShipTo has this instance's stream shipped to the sinks, and to no others from now on. A sink that was given before goes on; another
// one goes on where one of its name stood, and begins with what is recorded next where none did. Those that are left out are closed;
// on an error nothing has changed. Of new ones it is known how they are when it returns, unless they take longer than five seconds. With no sinks nothing is shipped and nothing waits.
func (s *Store) ShipTo(ctx context.Context, sinks []audit.Sink) error {
	s.shipLock.Lock()
	defer s.shipLock.Unlock()
	var old, next shipping
	if p := s.ships.Load(); p != nil {
		old = *p
	}
	last, err := s.tableHead(ctx)
	if err != nil {
		return fmt.Errorf("store: head of the audit trail: %w", err)
	}
	head := last.Seq
	var begins []*shipper
	for _, sink := range sinks {
		if i := slices.IndexFunc(old, func(sh *shipper) bool { return sh.sink == sink }); i >= 0 {
			next = append(next, old[i])
			continue
		}
		at, err := s.cursor(ctx, sink.Name(), head)
		if err != nil {
			return fmt.Errorf("store: how far %s has the audit trail: %w", sink.Name(), err)
		}
		sh := &shipper{s: s, sink: sink, wake: make(chan struct{}, 1), done: make(chan struct{}), moved: make(chan struct{}), looked: make(chan struct{}), at: at, saved: at, need: head}
		begins, next = append(begins, sh), append(next, sh)
	}
	// The new ones are waited for before the old ones are not: no event falls between them.
	if len(next) == 0 {
		s.ships.Store(nil)
	} else {
		s.ships.Store(&next)
	}
	s.end(slices.DeleteFunc(slices.Clone(old), func(sh *shipper) bool { return slices.Contains(next, sh) })) // a file has one writer
	for _, sh := range begins {
		life, stop := context.WithCancel(context.Background())
		sh.stop = stop
		go sh.run(life)
	}
	late := s.after(shipBound)
	for _, sh := range begins {
		select {
		case <-sh.looked:
		case <-late:
			return nil
		}
	}
	return nil
}

// end ends shippers. One whose sink hangs, as a file does on a disk that went away, is left to end when it goes on: neither a reload that takes it out
// nor a stop waits for that.
func (s *Store) end(list shipping) {
	for _, sh := range list {
		sh.stop()
	}
	var late <-chan time.Time
	for _, sh := range list {
		if late == nil {
			late = s.after(shipBound)
		}
		select {
		case <-sh.done:
			continue
		case <-late:
		}
		expired := make(chan time.Time)
		close(expired)
		late = expired
		s.log.Error("a sink of the audit trail hangs: it is left alone", "sink", sh.sink.Name())
	}
}

// cursor is how far a sink is known to have the stream. One that is new begins at the head.
func (s *Store) cursor(ctx context.Context, sink string, head int64) (at int64, err error) {
	err = s.write(ctx, func(u unit) error {
		if _, err := u.exec(beginSink, s.instance, sink, head); err != nil {
			return err
		}
		return u.queryRow(readSink, s.instance, sink).Scan(&at)
	})
	return at, err
}

// Sinks says of each sink how far it is behind, and why and since when nothing is begun for its sake.
func (s *Store) Sinks(ctx context.Context) ([]SinkState, error) {
	p := s.ships.Load()
	if p == nil {
		return nil, nil
	}
	head, err := s.tableHead(ctx)
	if err != nil {
		return nil, fmt.Errorf("store: head of the audit trail: %w", err)
	}
	var all []SinkState
	for _, sh := range *p {
		sh.mu.Lock()
		all = append(all, SinkState{Name: sh.sink.Name(), Lag: max(head.Seq-sh.at, 0), Since: sh.since, Err: sh.why()})
		sh.mu.Unlock()
	}
	return all, nil
}

// SinkState is where a sink stands.
type SinkState struct {
	Name  string
	Lag   int64     // records that it does not have yet
	Since time.Time // since when nothing is begun for its sake; zero: it is well
	Err   error     // why
}

// why needs the lock.
func (sh *shipper) why() error {
	switch {
	case sh.since.IsZero():
		return nil
	case sh.err != nil:
		return sh.err
	}
	return fmt.Errorf("it is behind by %d records", sh.need-sh.at)
}

// run ships until its context ends, then closes the sink.
func (sh *shipper) run(ctx context.Context) {
	defer close(sh.done)
	defer func() {
		sh.save(context.Background())
		if err := sh.sink.Close(); err != nil {
			sh.s.log.Warn("closing a sink of the audit trail", "sink", sh.sink.Name(), "err", err)
		}
	}()
	look, pause := true, retrySoon
	idle := sh.s.after(shipIdle)
	for ctx.Err() == nil {
		n, err := sh.ship(ctx, look)
		select {
		case <-sh.looked:
		default:
			close(sh.looked)
		}
		look = false
		var again <-chan time.Time
		wake := sh.wake
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			again, wake, look = sh.s.after(pause), nil, true // commits make it no better
			pause = min(2*pause, retrySeldom)
		case n == shipBatch:
			pause = retrySoon
			continue
		default:
			pause = retrySoon
		}
		select {
		case <-wake:
		case <-again:
		case <-idle:
			look = true
			sh.save(ctx)
			idle = sh.s.after(shipIdle)
		case <-ctx.Done():
		}
	}
}

// ship writes the next records, and with look asks the sink how it is where there are none.
func (sh *shipper) ship(ctx context.Context, look bool) (n int, err error) {
	sh.mu.Lock()
	at := sh.at
	sh.mu.Unlock()
	records, err := sh.s.recordsAfter(ctx, at)
	if err != nil {
		err = fmt.Errorf("the audit trail cannot be read: %w", err)
	} else if len(records) > 0 || look {
		within, cancel := context.WithTimeout(ctx, shipBound)
		err = sh.sink.Write(within, records)
		cancel()
	} else {
		return 0, nil
	}
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	if err == nil && len(records) > 0 {
		if first := records[0].Seq; first > at+1 {
			sh.s.log.Error("the store has removed records of the audit trail before a sink had them", "sink", sh.sink.Name(), "first", at+1, "last", first-1)
		}
		at = records[len(records)-1].Seq
	}
	sh.change(func() { sh.at, sh.err = at, err })
	if at-sh.saved >= shipSave {
		sh.save(ctx)
	}
	return len(records), err
}

// change changes the state, tells those who wait, and writes a line when the sink goes or is back.
func (sh *shipper) change(fn func()) {
	sh.mu.Lock()
	was := sh.since
	fn()
	switch bad := sh.err != nil || sh.at < sh.need; {
	case !bad:
		sh.since = time.Time{}
	case was.IsZero():
		sh.since = sh.s.clock()
	}
	now, why, at := sh.since, sh.why(), sh.at
	close(sh.moved)
	sh.moved = make(chan struct{})
	sh.mu.Unlock()
	switch {
	case was.IsZero() && !now.IsZero():
		sh.s.log.Error("the audit trail does not reach a sink: nothing new is begun until it does", "sink", sh.sink.Name(), "last", at, "err", why)
	case !was.IsZero() && now.IsZero():
		sh.s.log.Info("the sink has the audit trail again", "sink", sh.sink.Name(), "last", at, "since", was.UTC())
	}
}

// save notes how far the sink has the stream: a crash repeats what comes after.
func (sh *shipper) save(ctx context.Context) {
	sh.mu.Lock()
	at := sh.at
	sh.mu.Unlock()
	if at == sh.saved {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, shipBound)
	defer cancel()
	err := sh.s.write(ctx, func(u unit) error {
		_, err := u.exec(moveSink, sh.s.instance, sh.sink.Name(), at)
		return err
	})
	if err == nil {
		sh.saved = at
	}
}

// recordsAfter reads the next records of this instance's stream, at most shipBatch.
func (s *Store) recordsAfter(ctx context.Context, seq int64) (records []audit.Record, err error) {
	rows, err := s.readDB.QueryContext(ctx, s.dialect.sql(`SELECT seq, prev, hash, body FROM audit WHERE stream = $1 AND seq > $2 ORDER BY seq LIMIT $3`),
		s.instance, seq, shipBatch)
	if err != nil {
		return nil, err
	}
	err = each(rows, func(scan func(...any) error) error {
		r := audit.Record{Stream: s.instance}
		err := scan(&r.Seq, &r.Prev, &r.Hash, &r.Body)
		records = append(records, r)
		return err
	})
	return records, err
}

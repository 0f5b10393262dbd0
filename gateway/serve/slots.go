package serve

import "sync"

// slots are the connections that one socket may have open. Their number can change while it is open: those beyond a lower one
// live on.
type slots struct {
	freed chan struct{} // holds one element when one may have become free; for the one that accepts

	mu    sync.Mutex
	limit int
	taken int
}

func newSlots(limit int) *slots { return &slots{freed: make(chan struct{}, 1), limit: limit} }

// take takes one, if there is one.
func (s *slots) take() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken >= s.limit {
		return false
	}
	s.taken++
	return true
}

// give gives one back.
func (s *slots) give() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken--
	s.tell()
}

// allow sets how many there are.
func (s *slots) allow(limit int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit = limit
	s.tell()
}

func (s *slots) tell() {
	select {
	case s.freed <- struct{}{}:
	default:
	}
}

func (s *slots) most() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.limit
}

// crowded reports whether more than half of them are taken.
func (s *slots) crowded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken > s.limit/2
}

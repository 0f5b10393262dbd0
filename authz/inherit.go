package authz

import "github.com/muster-pki/muster/gateway"

// What a stage remembers of those who guess outlives its configuration: a reload would else give everybody as many guesses
// again, and whoever can cause one, as many as he wants.

// Inherit goes on with the limit of the stage before.
func (s *Password) Inherit(from gateway.Stage) {
	if old, ok := from.(*Password); ok {
		s.limit = s.limit.after(old.limit)
	}
}

// Inherit goes on with the limit of the stage before.
func (s *DevicePassword) Inherit(from gateway.Stage) {
	if old, ok := from.(*DevicePassword); ok {
		s.limit = s.limit.after(old.limit)
	}
}

// Inherit goes on with the limit of the stage before.
func (s *Challenge) Inherit(from gateway.Stage) {
	if old, ok := from.(*Challenge); ok {
		s.limit = s.limit.after(old.limit)
	}
}

// Inherit goes on with the limits of the stage before.
func (s *Approval) Inherit(from gateway.Stage) {
	if old, ok := from.(*Approval); ok {
		s.strangers, s.crowd = s.strangers.after(old.strangers), s.crowd.after(old.crowd)
	}
}

// after returns the limiter that goes on where another one is: that one itself where the limits are the same, else one with these
// limits and what every source has left of the others, at most its own burst. Either may be nil.
func (l *limiter) after(old *limiter) *limiter {
	if l == nil || old == nil {
		return l
	}
	if l.burst == old.burst && l.every == old.every && l.size == old.size {
		return old
	}
	made := &limiter{burst: l.burst, every: l.every, size: l.size}
	old.mu.Lock()
	defer old.mu.Unlock()
	made.reset()
	for e := old.recent.Front(); e != nil && made.recent.Len() < made.size; e = e.Next() {
		b := *e.Value.(*bucket)
		b.tokens = min(b.tokens, made.burst) // a higher burst is no gift to who has just guessed: it fills up in time
		made.table[b.source] = made.recent.PushBack(&b)
	}
	return made
}

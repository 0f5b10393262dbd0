package cmp

import "sync"

// maxRecent is how many IDs a process remembers to have asked for.
const maxRecent = 4096

// recent remembers which IDs this process has asked for: Lookup may be asked about one whose caller does not say when that was.
type recent struct {
	mu    sync.Mutex
	ids   map[string]bool
	order []string
}

func newRecent() *recent { return &recent{ids: map[string]bool{}} }

// begin notes an ID before the CA hears of it, and reports whether it is new here.
func (r *recent) begin(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ids[id] {
		return false
	}
	r.ids[id] = true
	if r.order = append(r.order, id); len(r.order) > maxRecent {
		delete(r.ids, r.order[0])
		r.order = r.order[1:]
	}
	return true
}

// refused takes an ID back under which nothing was issued.
func (r *recent) refused(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.ids, id)
}

func (r *recent) knows(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ids[id]
}

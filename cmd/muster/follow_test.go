package main

import (
	"testing"

	"github.com/muster-pki/muster/plugins/backend"
)

// Whatever a CA tells of itself, a change of it is seen.
func TestSameCAs(t *testing.T) {
	ca := func(change func(*backend.CA)) map[string][]backend.CA {
		c := backend.CA{Name: "ec", Chain: [][]byte{{1}}, Rollover: [][]byte{{2}}, Next: [][]byte{{3}}, CRLs: []string{"ec"},
			Shards: []backend.CRLShard{{Name: "ec.s1", URIs: []string{"http://a/1"}}}}
		change(&c)
		return map[string][]backend.CA{"local": {c}}
	}
	was := ca(func(*backend.CA) {})
	if !sameCAs(was, ca(func(*backend.CA) {})) {
		t.Error("the same CA is another")
	}
	for name, change := range map[string]func(*backend.CA){
		"name":         func(c *backend.CA) { c.Name = "rsa" },
		"chain":        func(c *backend.CA) { c.Chain = [][]byte{{4}} },
		"rollover":     func(c *backend.CA) { c.Rollover = nil },
		"next":         func(c *backend.CA) { c.Next = nil },
		"CRLs":         func(c *backend.CA) { c.CRLs = []string{"ec", "ec.1"} },
		"shards":       func(c *backend.CA) { c.Shards = nil },
		"shard's name": func(c *backend.CA) { c.Shards = []backend.CRLShard{{Name: "ec.s2", URIs: []string{"http://a/1"}}} },
		"shard's URIs": func(c *backend.CA) { c.Shards = []backend.CRLShard{{Name: "ec.s1", URIs: []string{"http://b/1"}}} },
	} {
		if sameCAs(was, ca(change)) {
			t.Errorf("another %s is not seen", name)
		}
	}
	if sameCAs(was, nil) || sameCAs(nil, was) {
		t.Error("a backend that comes or goes is not seen")
	}
}

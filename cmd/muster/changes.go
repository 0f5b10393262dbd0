package main

import (
	"fmt"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/gateway/admin"
)

// changesBetween says what a Runtime has otherwise than the one before.
func changesBetween(old, next *Runtime) *admin.Reload {
	a, b := childrenOf(old.cfg.root), childrenOf(next.cfg.root)
	r := &admin.Reload{
		Endpoints: entries(a["endpoints"], b["endpoints"]), Listeners: entries(a["listeners"], b["listeners"]), Profiles: entries(a["profiles"], b["profiles"]),
	}
	for _, name := range byName(next.plugins) {
		if old.plugins[name] == next.plugins[name] {
			r.Backends.Kept = append(r.Backends.Kept, name)
		} else {
			r.Backends.Started = append(r.Backends.Started, name)
		}
	}
	for _, name := range byName(old.plugins) {
		if old.plugins[name] != next.plugins[name] {
			r.Backends.Stopped = append(r.Backends.Stopped, name)
		}
	}
	rest := entries(old.cfg.root, next.cfg.root)
	for _, key := range slices.Concat(rest.Added, rest.Removed, rest.Changed) {
		if !slices.Contains([]string{"endpoints", "listeners", "profiles", "backends"}, key) {
			r.Settings = append(r.Settings, key)
		}
	}
	slices.Sort(r.Settings)
	return r
}

// entries compares two maps of a configuration by their keys. Comments, order and how values are written count as nothing.
func entries(old, next *yaml.Node) admin.Changes {
	var c admin.Changes
	a, b := childrenOf(old), childrenOf(next)
	for _, name := range byName(b) {
		switch was := a[name]; {
		case was == nil:
			c.Added = append(c.Added, name)
		case !sameNode(was, b[name]):
			c.Changed = append(c.Changed, name)
		}
	}
	for _, name := range byName(a) {
		if b[name] == nil {
			c.Removed = append(c.Removed, name)
		}
	}
	return c
}

// childrenOf are the values of a map, by key; none of anything else.
func childrenOf(n *yaml.Node) map[string]*yaml.Node {
	all := map[string]*yaml.Node{}
	if n == nil || n.Kind != yaml.MappingNode {
		return all
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		all[n.Content[i].Value] = n.Content[i+1]
	}
	return all
}

// sameNode reports whether two parts of configurations say the same.
func sameNode(a, b *yaml.Node) bool {
	if a.Kind != b.Kind || len(a.Content) != len(b.Content) {
		return false
	}
	if a.Kind == yaml.MappingNode {
		c := entries(a, b)
		return len(c.Added)+len(c.Removed)+len(c.Changed) == 0
	}
	return a.Value == b.Value && a.ShortTag() == b.ShortTag() && slices.EqualFunc(a.Content, b.Content, sameNode)
}

// reloadLines are what a reload changed, each in words; none when it changed nothing.
func reloadLines(r *admin.Reload) []string {
	var all []string
	for _, p := range []struct {
		what    string
		changes admin.Changes
	}{{"endpoints", r.Endpoints}, {"listeners", r.Listeners}, {"profiles", r.Profiles}} {
		all = append(all, spelled(p.what, "added", p.changes.Added, "removed", p.changes.Removed, "changed", p.changes.Changed)...)
	}
	if len(r.Backends.Started)+len(r.Backends.Stopped) > 0 {
		all = append(all, spelled("backends", "started", r.Backends.Started, "stopped", r.Backends.Stopped, "kept", r.Backends.Kept)...)
	}
	all = append(all, spelled("settings", "changed", r.Settings)...)
	return append(all, spelled("files", "read anew", r.Files)...)
}

// spelled is a line "endpoints: added a, b; removed c" of pairs of a word and its names, none when there are no names.
func spelled(what string, pairs ...any) []string {
	var said []string
	for i := 0; i+1 < len(pairs); i += 2 {
		if names := pairs[i+1].([]string); len(names) > 0 {
			said = append(said, fmt.Sprintf("%s %s", pairs[i], strings.Join(names, ", ")))
		}
	}
	if len(said) == 0 {
		return nil
	}
	return []string{what + ": " + strings.Join(said, "; ")}
}

// reloadSummary is reloadLines in a line that goes on after something else, cut to what the audit trail takes.
func reloadSummary(r *admin.Reload) string {
	text := strings.Join(reloadLines(r), "; ")
	if text == "" {
		return ", in which nothing has changed"
	}
	return "; " + reloadNote(text)
}

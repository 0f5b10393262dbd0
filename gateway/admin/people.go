package admin

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
)

const maxPersonName = 128 // bytes

// people are the actors of the ways that RemoteConfig.People names.
func (c *RemoteConfig) people() (all map[string]string, key []string, err error) {
	all = map[string]string{}
	subjects := map[string]bool{}
	for subject := range c.Certificates {
		if name, err := canonicalName(subject); err == nil {
			subjects[name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.People)) {
		key := []string{"people", name}
		if name == "" || len(name) > maxPersonName || name != strings.TrimSpace(name) || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
			return nil, key, fmt.Errorf("a person's name has 1 to %d bytes that can be shown", maxPersonName)
		}
		for _, way := range c.People[name] {
			kind, who, _ := strings.Cut(way, ":")
			switch {
			case who == "":
				err = errors.New(`want a way in, as "cert:CN=alice,O=Ops", "oidc:alice" or "token:alice"`)
			case kind == "cert":
				if who, err = canonicalName(who); err == nil && !subjects[who] {
					err = fmt.Errorf("%q is not among certificates", who)
				}
			case kind == "oidc" && (c.Console == nil || c.Console.OIDC == nil):
				err = errors.New("nobody comes by an identity provider: there is no console.oidc")
			case kind == "token" && c.Tokens == "":
				err = errors.New("nobody comes by a token: there is no tokens")
			case kind != "oidc" && kind != "token":
				err = fmt.Errorf("%q is no kind of way in: want cert, oidc or token", kind)
			}
			way = kind + ":" + who
			if other, taken := all[way]; err == nil && taken {
				err = fmt.Errorf("%q is %s's already", way, strings.TrimPrefix(other, "person:"))
			}
			if err != nil {
				return nil, key, err
			}
			all[way] = "person:" + name
		}
	}
	return all, nil, nil
}

// Named is the actor that the audit trail has of who comes in a way, as "oidc:alice": the person whose way it is, or the way itself.
func (a *Access) Named(way string) string {
	if person, ok := a.people[way]; ok {
		return person
	}
	return way
}

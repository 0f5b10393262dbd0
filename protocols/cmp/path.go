package cmp

import (
	"slices"
	"strings"
)

// labelPrefix stands before an endpoint's name (RFC 9811 section 3.4: "the path segment 'p'").
const labelPrefix = "p"

// operationLabels may end a path (RFC 9811 section 3.4, labels of the Lightweight CMP Profile, RFC 9483). They are not
// looked at further: the body alone says what is asked for.
var operationLabels = []string{
	"initialization", "certification", "keyupdate", "pkcs10", "revocation",
	"getcacerts", "getrootupdate", "getcertreqtemplate", "getcrls", "nested",
}

// splitPath finds the endpoint's name in a path below one of the two roots:
//
//	/.well-known/cmp[/p/NAME][/OPERATION]       RFC 9811 section 3.4
//	/cmp[/NAME][/OPERATION]
//
// name is "" for the default endpoint; ok is false for any other path. A slash at the end does not matter.
func splitPath(path string) (name string, ok bool) {
	path = strings.TrimSuffix(path, "/")
	rest, found := strings.CutPrefix(path, wellKnown)
	prefixed := found
	if !found {
		if rest, found = strings.CutPrefix(path, short); !found {
			return "", false
		}
	}
	if rest == "" {
		return "", true
	}
	if rest[0] != '/' {
		return "", false
	}
	segments := strings.Split(rest[1:], "/")
	if last := len(segments) - 1; slices.Contains(operationLabels, segments[last]) {
		segments = segments[:last]
	}
	switch {
	case len(segments) == 0:
		return "", true
	case prefixed && len(segments) == 2 && segments[0] == labelPrefix, !prefixed && len(segments) == 1:
		name = segments[len(segments)-1]
		return name, name != ""
	}
	return "", false
}

package main

import (
	"strings"
	"testing"
)

func TestDecodeCommandsStandUnderTheirProtocols(t *testing.T) {
	for _, protocol := range []string{"cmp", "scep"} {
		cmd, rest, err := newRootCommand().Find([]string{protocol, "decode", "FILE"})
		if err != nil || cmd.CommandPath() != "muster "+protocol+" decode" || strings.Join(rest, " ") != "FILE" {
			t.Errorf("%s: %v, %s %q", protocol, err, cmd.CommandPath(), rest)
		}
	}
}

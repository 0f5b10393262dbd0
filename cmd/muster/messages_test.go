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

// What stands behind a command that takes flags only is no command, and is not called one.
func TestNoArguments(t *testing.T) {
	for line, want := range map[string]string{
		"secret add device-0001": `muster secret add takes flags only, not "device-0001": see muster secret add --help`,
		"serve muster.yaml":      `muster serve takes flags only, not "muster.yaml"`,
		"check muster.yaml":      "config",
	} {
		root := newRootCommand()
		root.SetArgs(strings.Fields(line))
		if err := root.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", line, err)
		}
	}
}

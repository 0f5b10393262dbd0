package main

import (
	"strings"
	"testing"
)

// TestSinks: what cannot be a sink is an error of the configuration, with its line.
func TestSinks(t *testing.T) {
	parse := func(sink string) error {
		_, err := parseConfig("muster.yaml", t.TempDir(), []byte(good+"\naudit:\n  sinks:\n    - "+sink+"\n"))
		return err
	}
	for _, sink := range []string{
		"file: {path: audit.jsonl}", "syslog: {address: tcp://127.0.0.1:601}", "syslog: {address: tls://siem.example.com}",
		"syslog: {address: udp://127.0.0.1:514, facility: local3, app-name: muster-1}", "syslog: {address: unix:///dev/log}",
	} {
		if err := parse(sink); err != nil {
			t.Errorf("%s: %v", sink, err)
		}
	}
	for sink, says := range map[string]string{
		"{}":                        "either a file or a syslog",
		"file: {path: none/a.json}": "there is no folder",
		"file: {path: a.json}\n    - file: {path: ./a.json}":   "is a sink already",
		"file: {path: a, mode: 1}":                             `mode`,
		"syslog: {address: 127.0.0.1:601}":                     "want tcp://HOST:PORT",
		"syslog: {address: tcp://127.0.0.1}":                   "has no port",
		"syslog: {address: tcp://u:p@127.0.0.1:1}":             "want tcp://HOST:PORT",
		"syslog: {address: udp://127.0.0.1:514, ca: x.pem}":    "only a tls address",
		"syslog: {address: tls://a, ca: none.pem}":             "none.pem",
		"syslog: {address: udp://a:1, facility: locale3}":      "local3",
		"syslog: {address: udp://a:1, app-name: of two words}": "printable",
	} {
		if err := parse(sink); err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "muster.yaml:") {
			t.Errorf("%s: %v, want %q", sink, err, says)
		}
	}
}

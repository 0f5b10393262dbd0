package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzConfig: a configuration is read, or each of its faults is told in lines that name the file and show nothing but text; reading twice comes
// to the same.
func FuzzConfig(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte(goodBoth))
	f.Add([]byte(good + "\naudit:\n  sinks:\n    - {syslog: {address: \"tls://192.0.2.1:6514\", facility: local0}}\n    - {file: {path: a.jsonl}}\n"))
	f.Add([]byte(strings.Replace(good, "127.0.0.1:0", "nowhere", 1)))
	f.Add([]byte("version: 1\nstore: postgres://u:p@[::1]:x/\xff"))
	f.Add([]byte("version: &a [*a]\n"))
	examples, err := filepath.Glob(filepath.Join("..", "..", "configs", "*.yaml"))
	if err != nil || len(examples) == 0 {
		f.Fatalf("%d examples, %v", len(examples), err)
	}
	for _, name := range examples {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parseConfig("muster.yaml", dir, data)
		if err == nil {
			if c == nil || c.Version != 1 || c.Store == "" {
				t.Fatalf("%+v", c)
			}
			return
		}
		if c != nil {
			t.Errorf("a configuration with the error %v", err)
		}
		if !strings.HasPrefix(err.Error(), "muster.yaml") || strings.ContainsAny(err.Error(), "\x1b\r\x00") {
			t.Errorf("%q", err)
		}
		if _, again := parseConfig("muster.yaml", dir, data); again == nil || again.Error() != err.Error() {
			t.Errorf("%v\nand then\n%v", err, again)
		}
	})
}

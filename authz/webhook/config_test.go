package webhook

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestConfigErrors(t *testing.T) {
	dir := t.TempDir()
	file(t, dir, "short", []byte("fifteen bytes.."))
	file(t, dir, "spaced", []byte("a token"))
	file(t, dir, "empty", nil)
	file(t, dir, "long", []byte(strings.Repeat("x", 1025)))
	file(t, dir, "good", []byte(signedBy))
	file(t, dir, "open", []byte(signedBy))
	if err := os.Chmod(filepath.Join(dir, "open"), 0o644); err != nil {
		t.Fatal(err)
	}
	retries := func(n int) *int { return &n }
	const at = "https://example.com/"
	for want, c := range map[string]Config{
		"url: where the service is":           {},
		"url: not a URL":                      {URL: "https://example.com:x" + hidden},
		"url: want https":                     {URL: "ftp://example.com"},
		"url: want https://HOST":              {URL: "https:///validate"},
		"url: no user":                        {URL: "https://u:" + hidden + "@example.com"},
		"url: no fragment":                    {URL: at + "#x"},
		"url: its port":                       {URL: "https://example.com:65536/"},
		"url: its port is not":                {URL: "https://example.com:0/"},
		"url: http is for loopback":           {URL: "http://192.0.2.1/"},
		"url: http is for loopback addresses": {URL: "http://localhost.example.com/"},
		"ca, cert and key are for https":      {URL: "http://127.0.0.1/", CA: "good"},
		"ca: stat":                            {URL: at, CA: "absent"},
		"ca: good: no certificate":            {URL: at, CA: "good"},
		"cert and key belong":                 {URL: at, Cert: "good"},
		"cert, key:":                          {URL: at, Cert: "good", Key: "good"},
		"key: /":                              {URL: at, Cert: "good", Key: "open"},
		"token-file: /":                       {URL: at, TokenFile: "open"},
		"token-file: empty has 0 bytes":       {URL: at, TokenFile: "empty"},
		"token-file: a token is printable":    {URL: at, TokenFile: "spaced"},
		"secret-file: short has 15 bytes":     {URL: at, SecretFile: "short"},
		"secret-file: long has 1025 bytes":    {URL: at, SecretFile: "long"},
		"secret-file: /":                      {URL: at, SecretFile: "open"},
		"timeout:":                            {URL: at, Timeout: 99e6},
		"timeout: 100ms to 30s":               {URL: at, Timeout: 31e9},
		"retries: 0 to 3":                     {URL: at, Retries: retries(4)},
		"retries:":                            {URL: at, Retries: retries(-1)},
		"concurrency: 1 to 256":               {URL: at, Concurrency: 257},
		"concurrency:":                        {URL: at, Concurrency: -1},
	} {
		if s, err := New(c, dir); s != nil || err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), hidden) || strings.Contains(err.Error(), signedBy) {
			t.Errorf("want %q: %v", want, err)
		}
	}
	for _, u := range []string{"http://127.0.0.1:9/x", "http://[::1]:9/x", "http://localhost/x", "http://127.8.0.1/", "https://192.168.0.1/", at + "?a=b"} {
		if _, err := New(Config{URL: u}, dir); err != nil {
			t.Errorf("%s: %v", u, err)
		}
	}
}

package main

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// withRate is the good configuration, with a rate for each of its local CAs.
func withRate(rates ...string) string {
	var all strings.Builder
	for i, r := range rates {
		n := "local"
		if i > 0 {
			n += strings.Repeat("x", i)
		}
		all.WriteString("  " + n + ": {plugin: local, config: {dir: ./" + n + "}" + r + "}\n")
	}
	return strings.Replace(good, "  local: {plugin: local, config: {dir: ./ca}}\n", all.String()+"server-certificate: {backend: local}\n", 1)
}

func TestRates(t *testing.T) {
	parsed := func(rates ...string) (map[string]gateway.Rate, error) {
		c, err := parseConfig("muster.yaml", t.TempDir(), []byte(withRate(rates...)))
		if err != nil {
			return nil, err
		}
		return c.rates(), nil
	}
	for _, c := range []struct {
		rates []string
		want  map[string]gateway.Rate
	}{
		{[]string{""}, map[string]gateway.Rate{}},
		{[]string{", rate: {issued: 50, per: 1s}"}, map[string]gateway.Rate{"local": {Every: 20 * time.Millisecond, Burst: 5, Queue: 100}}},
		{[]string{", rate: {issued: 1, per: 1h, burst: 3, queue: 0}"}, map[string]gateway.Rate{"local": {Every: time.Hour, Burst: 3}}},
		{[]string{", rate: {issued: 1, per: 1d, queue: 200}", ", rate: {issued: 2, per: 1m}", ", rate: {issued: 2, per: 1m}", ""}, map[string]gateway.Rate{
			"local": {Every: 24 * time.Hour, Burst: 1, Queue: 200}, "localx": {Every: 30 * time.Second, Burst: 1, Queue: 28}, "localxx": {Every: 30 * time.Second, Burst: 1, Queue: 28},
		}},
	} {
		if got, err := parsed(c.rates...); err != nil || !maps.Equal(got, c.want) {
			t.Errorf("%s: %v, %v", c.rates, got, err)
		}
	}
	for rate, want := range map[string]string{
		"{per: 1s}":                           `:9: backends.local.rate lacks "issued"`,
		"{issued: 5}":                         `:9: backends.local.rate lacks "per"`,
		"{issued: 0, per: 1s}":                ":9: backends.local.rate.issued: want at least 1",
		"{issued: 5, per: 1ms}":               ":9: backends.local.rate.per: want 1s to 1d",
		"{issued: 5, per: 2d}":                ":9: backends.local.rate.per: want 1s to 1d",
		"{issued: 10001, per: 1s}":            ":9: backends.local.rate.issued: more than 10000 per second",
		"{issued: 5, per: 1s, burst: 10001}":  ":9: backends.local.rate.burst: want 1 to 10000",
		"{issued: 5, per: 1s, queue: 257}":    ":9: backends.local.rate.queue: want 0 to 256",
		"{issued: 5, per: 1s, queue: -1}":     ":9: backends.local.rate.queue: want 0 to 256",
		"{issued: 5, per: 1s, queues: 5}":     `(did you mean "queue"?)`,
		"{issued: 5, per: 1s, per-second: 5}": `unknown key "per-second" in backends.local.rate`,
	} {
		if _, err := parsed(", rate: " + rate); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", rate, err)
		}
	}
	_, err := parsed(", rate: {issued: 5, per: 1s, queue: 200}", ", rate: {issued: 5, per: 1s, queue: 60}")
	if err == nil || !strings.Contains(err.Error(), ":8: backends: the queues of all rates have 260 places together, 4 more than there are") {
		t.Error(err)
	}
}

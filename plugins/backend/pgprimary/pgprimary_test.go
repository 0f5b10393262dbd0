package pgprimary

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

func watch(t *testing.T, url string) (*Primary, *pgx.ConnConfig) {
	t.Helper()
	config, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	return Watch(config, 12*time.Second), config
}

// The same address comes twice where TLS is optional: it is one server. The time of a transaction has room for each of several.
func TestWatch(t *testing.T) {
	for url, want := range map[string]struct {
		servers int
		connect time.Duration
	}{
		"postgres://u@a:1/d?sslmode=disable":                       {1, 12 * time.Second},
		"postgres://u@a:1/d?sslmode=prefer":                        {1, 12 * time.Second},
		"postgres://u@a:1,b:2/d?sslmode=prefer":                    {2, 4 * time.Second},
		"postgres://u@a:1,b:2/d?sslmode=disable&connect_timeout=7": {2, 7 * time.Second},
	} {
		p, config := watch(t, url)
		if len(p.servers) != want.servers || config.ConnectTimeout != want.connect {
			t.Errorf("%s: %d servers, %s to connect", url, len(p.servers), config.ConnectTimeout)
		}
	}
}

// Every address is tried, the preferred server's first.
func TestPrefer(t *testing.T) {
	p, config := watch(t, "postgres://u@a:1,b:2,c:3/d?sslmode=prefer")
	if err := p.Prefer(t.Context(), config); err != nil || config.Host != "a" {
		t.Errorf("before anything was seen: %s, %v", config.Host, err)
	}
	p.last.Store(p.servers[1])
	for range 2 {
		if err := p.Prefer(t.Context(), config); err != nil {
			t.Fatal(err)
		}
		order, ways := config.Host, map[string]int{config.Host: 1}
		for _, f := range config.Fallbacks {
			if ways[f.Host]++; ways[f.Host] == 1 {
				order += f.Host
			}
		}
		if order != "bac" || ways["a"] != 2 || ways["b"] != 2 || ways["c"] != 2 {
			t.Errorf("%s, %v", order, ways)
		}
	}
}

// A commit in doubt is told once to each who asked before it.
func TestDoubt(t *testing.T) {
	p, config := watch(t, "postgres://u@a:1/d")
	one, other := p.Doubt(), p.Doubt()
	config.OnNotice(nil, &pgconn.Notice{File: "tablecmds.c"})
	if one() != nil {
		t.Error("another notice is a doubt")
	}
	config.OnNotice(nil, &pgconn.Notice{File: "syncrep.c"})
	if one() == nil || other() == nil || one() != nil || p.Doubt()() != nil {
		t.Error("want one error for each who asked before")
	}
}

package main

import "testing"

func TestRedacted(t *testing.T) {
	for dsn, want := range map[string]string{
		"sqlite:a:b.db":                                "sqlite:a:b.db",
		"postgres://":                                  "postgres://",
		"postgres://?password=secret&user=a":           "postgres://?password=xxxxx&user=a",
		"postgres://a:secret@db/m?sslmode=verify-full": "postgres://a:xxxxx@db/m?sslmode=verify-full",
		"postgres://db/%zz?password=secret":            "postgres://...",
	} {
		if got := redacted(dsn); got != want {
			t.Errorf("%s: %s", dsn, got)
		}
	}
}

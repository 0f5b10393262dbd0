package main

import (
	"log"
	"log/slog"
	"strings"
)

// libraries is where packages log that know no logger but that of package log.
type libraries struct{ log *slog.Logger }

// listenToLibraries has what they say written to l.
func listenToLibraries(l *slog.Logger) {
	slog.SetDefault(l)
	log.SetFlags(0)
	log.SetOutput(libraries{l})
}

// Write drops what net/http quotes of an answer that is longer than it says: it may hold what was asked, a challenge for one.
func (l libraries) Write(line []byte) (int, error) {
	text, _, _ := strings.Cut(string(line), " starting with ")
	l.log.Info(strings.TrimSpace(text))
	return len(line), nil
}

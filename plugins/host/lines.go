package host

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	maxLine  = 8 << 10 // bytes of a plugin's log line; the rest of it is dropped
	maxAttrs = 32
)

// How many lines of a plugin reach the log: one in a loop must not fill the disk, nor take the processor from other CAs.
const (
	linesBurst = 5000
	linesEvery = 2 * time.Millisecond // one more
)

// lineBudget is what a plugin may still write, through all of its lives and outputs.
type lineBudget struct {
	clock   func() time.Time
	mu      sync.Mutex
	left    time.Duration // in the time that it takes to earn it
	at      time.Time
	closed  bool // used up: until a second's worth is there again
	dropped int
}

// take reports whether a line may be written, and how many were not since the last that was.
func (b *lineBudget) take() (ok bool, dropped int) {
	if b == nil {
		return true, 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.clock()
	if b.at.IsZero() {
		b.left = linesBurst * linesEvery
	} else {
		b.left = min(b.left+max(now.Sub(b.at), 0), linesBurst*linesEvery)
	}
	b.at = now
	if b.closed && b.left >= time.Second {
		b.closed = false
	}
	if b.closed || b.left < linesEvery {
		b.closed = true
		b.dropped++
		return false, 0
	}
	b.left -= linesEvery
	dropped, b.dropped = b.dropped, 0
	return true, dropped
}

// lines turns what a plugin writes into log lines. go-plugin's own reader is not used: it panics, in the host, on
// a line whose "@message" is no string, and keeps what it is given without bound.
type lines struct {
	log     *slog.Logger
	budget  *lineBudget // nil: none
	mu      sync.Mutex
	buf     []byte
	cut     bool // the current line is longer than maxLine
	crashed bool // a Go crash has begun: what follows is its stack
}

// Write never fails.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(p)
	for len(p) > 0 {
		part, rest, ends := bytes.Cut(p, []byte("\n"))
		p = rest
		if room := maxLine - len(l.buf); len(part) > room {
			part, l.cut = part[:room], true
		}
		l.buf = append(l.buf, part...)
		if ends {
			l.emit()
		}
	}
	return n, nil
}

// flush emits what has no end of line.
func (l *lines) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.buf) > 0 {
		l.emit()
	}
}

// emit needs the lock.
func (l *lines) emit() {
	text, cut := bytes.TrimRight(l.buf, "\r"), l.cut
	l.buf, l.cut = l.buf[:0], false
	if len(text) == 0 {
		return
	}
	ok, dropped := l.budget.take()
	if !ok {
		return
	}
	if dropped > 0 {
		l.log.Warn("the plugin writes more lines than are logged", "dropped", dropped)
	}
	line := strings.ToValidUTF8(string(text), "?")
	level, message, attrs := slog.LevelInfo, line, []slog.Attr(nil)
	var fields map[string]any
	switch {
	case !cut && line[0] == '{' && json.Unmarshal([]byte(line), &fields) == nil:
		level, message, attrs = parseFields(fields)
	case l.crashed || strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: "):
		l.crashed, level = true, slog.LevelError
	}
	if cut {
		attrs = append(attrs, slog.Bool("truncated", true))
	}
	l.log.LogAttrs(context.Background(), level, message, attrs...)
}

// lowestLevel is the lowest of the four levels that the logger keeps.
func lowestLevel(log *slog.Logger) slog.Level {
	for _, l := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn} {
		if log.Enabled(context.Background(), l) {
			return l
		}
	}
	return slog.LevelError
}

// parseFields reads a line of slog's JSON handler or of hclog's.
func parseFields(fields map[string]any) (level slog.Level, message string, attrs []slog.Attr) {
	text := func(keys ...string) string {
		for _, k := range keys {
			if s, ok := fields[k].(string); ok {
				return s
			}
		}
		return ""
	}
	name := text(slog.LevelKey, "@level")
	if name == "trace" {
		name = "debug-4"
	}
	if level.UnmarshalText([]byte(name)) != nil {
		level = slog.LevelInfo
	}
	message = text(slog.MessageKey, "@message")
	for _, k := range []string{slog.LevelKey, "@level", slog.MessageKey, "@message", slog.TimeKey, "@timestamp", "@module", "plugin"} {
		delete(fields, k)
	}
	for k, v := range fields {
		if f, ok := v.(float64); ok && f == math.Trunc(f) && math.Abs(f) < 1<<53 { // 1000003, not 1.000003e+06
			v = int64(f)
		}
		attrs = append(attrs, slog.Any(k, v))
	}
	slices.SortFunc(attrs, func(a, b slog.Attr) int { return strings.Compare(a.Key, b.Key) })
	return level, message, attrs[:min(len(attrs), maxAttrs)]
}

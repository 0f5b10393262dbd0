package serve

import (
	"log/slog"
	"strings"
	"testing"
)

func TestTooFewDescriptorsAreToldOnce(t *testing.T) {
	var log strings.Builder
	s := NewSet(slog.New(slog.NewTextHandler(&log, nil)))
	defer drain(t, s)
	allowed := uint64(otherDescriptors + 30)
	s.limit = func() (uint64, error) { return allowed, nil }
	specs := map[string]Spec{
		"a": {Address: "127.0.0.1:0", Connections: 10, Handler: says("a")}, "b": {Address: "127.0.0.1:0", Connections: 20, Handler: says("b")},
	}
	apply(t, s, specs)
	if log.Len() > 0 {
		t.Fatalf("enough are not: %s", &log)
	}
	allowed--
	apply(t, s, specs)
	apply(t, s, specs)
	if got := log.String(); strings.Count(got, "LimitNOFILE=") != 1 || !strings.Contains(got, "limit=285 needed=286") {
		t.Errorf("the log: %s", got)
	}
	if n, err := descriptors(); err != nil || n == 0 {
		t.Errorf("%d descriptors, %v", n, err)
	}
}

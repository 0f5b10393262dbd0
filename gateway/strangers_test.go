package gateway

import (
	"fmt"
	"strings"
	"testing"
)

// What strangers send is kept cut short, however long it is: memory stays bounded by the number of refusals.
func TestStrangersAreCutShort(t *testing.T) {
	s := newStrangers(2)
	long := strings.Repeat("ü", 100_000)
	for i := range 5 {
		s.add(&Transaction{
			ID: fmt.Sprint(i), WireID: long, Endpoint: "est", Subject: long, Note: long, Source: long, Reason: Untrusted,
			Credentials: []string{long, long},
			Verdicts:    []Judged{{Stage: "a", Note: long, Parts: []Judged{{Stage: "b", Note: long}}}},
		}, false)
	}
	if len(s.byID) != 2 {
		t.Errorf("%d are remembered", len(s.byID))
	}
	for _, k := range s.byID {
		size := len(k.WireID) + len(k.Subject) + len(k.Note) + len(k.Source) + len(k.Verdicts[0].Note) + len(k.Verdicts[0].Parts[0].Note)
		for _, c := range k.Credentials {
			size += len(c)
		}
		if size > 16<<10 || !strings.HasPrefix(k.Subject, "üüü") || strings.ToValidUTF8(k.Subject, "") != k.Subject {
			t.Errorf("%d bytes are kept", size)
		}
	}
}

// Sums that could not be written are bounded too.
func TestStrangersSumsAreBounded(t *testing.T) {
	s := newStrangers(1)
	total := uint64(0)
	for round := range 3 {
		for i := range 2 * maxLabels {
			s.add(&Transaction{ID: "x", Endpoint: fmt.Sprintf("%d-%d", round, i), Reason: Untrusted}, false)
			total++
		}
		s.giveBack("strangers", s.take()["strangers"])
	}
	counts := s.take()["strangers"]
	sum := uint64(0)
	for _, n := range counts {
		sum += n
	}
	if len(counts) > maxLabels+1 || sum != total {
		t.Errorf("%d sums of %d refusals, want at most %d of %d", len(counts), sum, maxLabels+1, total)
	}
}

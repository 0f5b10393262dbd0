//go:build reliability

package e2e

import (
	"math/rand/v2"
	"testing"
	"time"
)

// TestReliabilityLink has a link to the central gateway fail in every way, in an order of chance, while devices of three protocols ask at
// the edge, which is killed now and then. Each is told to wait or has its certificate; in the end each has one, and the central gateway
// has been asked once for each.
func TestReliabilityLink(t *testing.T) {
	seed := uint64(setting(t, "MUSTER_SEED", int(time.Now().UnixNano())))
	t.Logf("MUSTER_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	l := startLinked(t)
	c, scep := l.edge.client(nil), l.edge.scepDevice()
	total, kills := scaled(60, 2000), 0
	var all []*waiter
	for len(all) < total {
		l.link.is([]string{"down", "down", "down", "cut", "hangs"}[random.IntN(5)])
		all = l.come(all, 1+random.IntN(min(100, total-len(all))), c, scep)
		if random.IntN(3) == 0 {
			l.killed()
			c.CloseIdleConnections()
			kills++
		}
		if random.IntN(6) == 0 { // a moment of a link: some get through, the others go on waiting
			l.link.is("up")
			time.Sleep(time.Duration(random.IntN(3000)) * time.Millisecond)
			l.link.is("down")
			l.edge.t.Logf("%d have asked, %d kills", len(all), kills)
		}
	}
	l.link.is("up")
	begun := time.Now()
	l.delivered(10 * time.Minute)
	for _, w := range all {
		if has, err := w.again(); !has || err != nil {
			t.Errorf("%s, afterwards: %v, %v", w.name, has, err)
		}
	}
	l.wantInOrder(all)
	t.Logf("| a link that is down, hangs and cuts, the edge killed | %d requests of CMP, EST and SCEP, %d kills | each one certificate, in the order of arrival, %v after the link was back |",
		len(all), kills, time.Since(begun).Round(time.Second))
}

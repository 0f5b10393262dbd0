//go:build reliability

package e2e

import (
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestReliabilityStandby has the first of two CAs be out of reach, hang, drop its answers, die, and come back, in an order of chance,
// while devices enrol over EST, CMP and SCEP. No request has two certificates in both ledgers together; those that may have reached a CA
// wait until it tells, the others get theirs from the standby within seconds.
func TestReliabilityStandby(t *testing.T) {
	seed := uint64(setting(t, "MUSTER_SEED", int(time.Now().UnixNano())))
	t.Logf("MUSTER_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	plugin := buildFaulty(t)
	for _, idempotency := range []string{"native", "lookup"} {
		t.Run(idempotency, func(t *testing.T) {
			r := startRouted(t, plugin, idempotency)
			r.clients = r.insistents()
			stop := r.honest()
			var all []*wronged
			waited, rounds := 0, scaled(4, 40)
			for i := range rounds {
				how := []string{"unreached", "hang", "drop", "die", ""}[random.IntN(5)]
				done := make(chan []*wronged)
				go func() {
					done <- r.storm(fmt.Sprintf("ok%d", i), 30, 12)
				}()
				time.Sleep(time.Duration(random.IntN(300)) * time.Millisecond) // some are at the CA
				if how == "die" {
					r.killOne(random)
				} else {
					r.mood(how)
				}
				these := <-done
				for _, w := range these {
					if w.cert == nil {
						waited++
					}
				}
				all = append(all, these...)
				if random.IntN(2) == 0 {
					r.mood("")
				}
			}
			r.mood("")
			r.ends(all, 3*time.Minute)
			lost, twice := r.agreeBoth(all)
			took := stop()
			if late := took[len(took)*95/100]; late > 8*time.Second { // it may have been with the CA that went down
				t.Errorf("an honest device in twenty waits %v", late)
			}
			first, second := len(r.signed()), len(r.second.signed())
			t.Logf("%d requests, %d of which waited for the first CA; %d names in its ledger, %d in the standby's; honest devices: %s", len(all), waited, first, second, spread(took))
			if first == 0 || second == 0 {
				t.Error("one of the CAs was never asked")
			}
			found(finding{"standby, " + idempotency, len(all), lost, twice, fmt.Sprintf("19 of 20 within %.1f s", took[len(took)*95/100].Seconds())})
		})
	}
}

// killOne kills one of the CAs' processes.
func (r *routed) killOne(random *rand.Rand) {
	out, err := exec.Command("pgrep", "-P", strconv.Itoa(r.cmd.Process.Pid)).Output()
	pids := strings.Fields(string(out))
	if err != nil || len(pids) == 0 {
		return // both were killed a moment ago
	}
	if pid, err := strconv.Atoi(pids[random.IntN(len(pids))]); err == nil {
		syscall.Kill(pid, syscall.SIGKILL) //nolint:errcheck // it may have just ended
	}
}

package simulate

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// script is a gateway whose answers a test gives. Time in it is the test's (testing/synctest): nothing is waited for.
type script struct {
	answer func(d Device, try int) Answer

	mu    sync.Mutex
	begun time.Time
	tries map[string][]time.Duration // by subject: when
	now   int
	most  int // at a time
	took  time.Duration
}

func (s *script) Ask(ctx context.Context, d Device) Answer {
	s.mu.Lock()
	if s.tries == nil {
		s.tries = map[string][]time.Duration{}
	}
	who := string(d.Subject)
	s.tries[who] = append(s.tries[who], time.Since(s.begun))
	try := len(s.tries[who])
	s.now++
	s.most = max(s.most, s.now)
	s.mu.Unlock()
	select {
	case <-time.After(s.took):
	case <-ctx.Done():
	}
	s.mu.Lock()
	s.now--
	s.mu.Unlock()
	return s.answer(d, try)
}

func (s *script) of(t *testing.T, f *Fleet, n int) []time.Duration {
	t.Helper()
	name, err := f.name(n)
	if err != nil {
		t.Fatal(err)
	}
	return s.tries[string(name)]
}

// certificate is a self-signed one of the device's key.
func certificate(d Device) []byte {
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1), RawSubject: d.Subject}, &x509.Certificate{}, d.Key.Public(), d.Key)
	if err != nil {
		panic(err)
	}
	return der
}

func issues(d Device, _ int) Answer { return Answer{Cert: certificate(d)} }

func fleetOf(t testing.TB, n int) *Fleet {
	t.Helper()
	f, err := NewFleet(n, P256, "CN=sim-{{n}}")
	if err != nil {
		t.Fatal(err)
	}
	return f
}

var usual = Pace{Concurrency: 4, Retry: 10 * time.Second, GiveUp: time.Hour}

// play runs a phase on invented time.
func play(t *testing.T, f *Fleet, phase Phase, s *script, pace Pace, watch Watch) (r *Report) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s.begun = time.Now()
		r = f.Run(t.Context(), phase, s, pace, watch)
	})
	return r
}

func TestAllAtOnceWithinTheConcurrency(t *testing.T) {
	f, s := fleetOf(t, 20), &script{answer: issues, took: time.Second}
	r := play(t, f, Enroll, s, usual, Watch{})
	if !r.Good() || f.Certified() != 20 || s.most != 4 || r.Took != 5 || r.Latency.P50 != 1000 || r.Latency.Max != 1000 || r.Tries.Max != 1 || r.Best != 4 {
		t.Errorf("%+v, %d at a time", r, s.most)
	}
}

func TestWithinSpreadsTheFirstTries(t *testing.T) {
	f, s := fleetOf(t, 10), &script{answer: issues}
	pace := usual
	pace.Within = 100 * time.Second
	if r := play(t, f, Enroll, s, pace, Watch{}); !r.Good() {
		t.Errorf("%+v", r)
	}
	for n := range 10 {
		if at := s.of(t, f, n); len(at) != 1 || at[0].Truncate(time.Millisecond) != time.Duration(n)*10*time.Second {
			t.Errorf("device %d asked at %v", n, at)
		}
	}
}

// A device never comes before it was told to, nor much later, and not at the same time as the others.
func TestRetryAfterIsHonoured(t *testing.T) {
	f, open := fleetOf(t, 50), new(int)
	s := &script{answer: func(d Device, try int) Answer {
		if try == 1 {
			return Answer{Away: "503", After: 20 * time.Second, Open: open}
		}
		if try == 2 {
			if d.Open != open {
				t.Error("what was open is not gone on with")
			}
			return Answer{Away: "202"}
		}
		return issues(d, try)
	}}
	pace := usual
	pace.Concurrency = 50
	r := play(t, f, Enroll, s, pace, Watch{})
	if !r.Good() || r.TurnedAway != 100 || r.Told.Min != 20 || r.Told.Max != 20 || r.Tries.Min != 3 || r.Tries.Max != 3 || len(r.Answers) != 2 {
		t.Errorf("%+v", r)
	}
	different := map[time.Duration]bool{}
	for n := range 50 {
		at := s.of(t, f, n)
		if wait := at[1] - at[0]; wait < 20*time.Second || wait > 22*time.Second {
			t.Errorf("told 20 s, device %d waited %v", n, wait)
		}
		if wait := at[2] - at[1]; wait < pace.Retry || wait > pace.Retry*11/10 {
			t.Errorf("told nothing, device %d waited %v", n, wait)
		}
		different[at[1]] = true
	}
	if len(different) < 40 {
		t.Errorf("%d devices came back at %d times", 50, len(different))
	}
}

func TestBackoffDoubles(t *testing.T) {
	f := fleetOf(t, 1)
	s := &script{answer: func(d Device, try int) Answer {
		if try < 9 {
			return Answer{Broken: "connection refused"}
		}
		return issues(d, try)
	}}
	r := play(t, f, Enroll, s, usual, Watch{})
	if !r.Good() || len(r.Broken) != 1 || r.Broken[0] != (Cause{"connection refused", 8}) {
		t.Errorf("%+v", r)
	}
	at := s.of(t, f, 0)
	for i, want := range []time.Duration{1, 2, 4, 8, 16, 30, 30, 30} {
		if wait := at[i+1] - at[i]; wait < want*time.Second || wait > want*time.Second*11/10 {
			t.Errorf("after try %d: waited %v, want %d s and up to a tenth more", i+1, wait, want)
		}
	}
}

func TestGivesUp(t *testing.T) {
	for _, a := range []Answer{{Away: "503", After: 50 * time.Second}, {Broken: "connection refused"}} {
		f, s := fleetOf(t, 1), &script{answer: func(Device, int) Answer { return a }}
		pace := usual
		pace.GiveUp = 3 * time.Minute
		r := play(t, f, Enroll, s, pace, Watch{})
		if r.Good() || r.Failed != 1 || !strings.Contains(r.Causes[0].Cause, "gave up after 3m0s") || !strings.Contains(r.Causes[0].Cause, a.Away+a.Broken) || r.Took > 180 {
			t.Errorf("%+v", r)
		}
	}
}

// A wrong password is not tried by a million devices. Once one has a certificate, all are.
func TestHopeless(t *testing.T) {
	f, s := fleetOf(t, 1000), &script{answer: func(Device, int) Answer { return Answer{Refused: "HTTP 401: wrong"} }}
	r := play(t, f, Enroll, s, usual, Watch{})
	if r.Good() || r.Failed < hopeless || r.Failed > hopeless+4 || r.Left != 1000-r.Failed || r.Because != causeHopeless || r.Causes[0].Cause != "HTTP 401: wrong" {
		t.Errorf("%+v", r)
	}
	one := fleetOf(t, 100)
	first, _ := one.name(0)
	s = &script{answer: func(d Device, _ int) Answer {
		if string(d.Subject) == string(first) {
			return issues(d, 1)
		}
		return Answer{Refused: "HTTP 403: no"}
	}}
	pace := usual
	pace.Concurrency = 1
	if r := play(t, one, Enroll, s, pace, Watch{}); r.Issued != 1 || r.Failed != 99 || r.Left != 0 {
		t.Errorf("%+v", r)
	}
}

func TestInterrupted(t *testing.T) {
	f, s := fleetOf(t, 10), &script{took: time.Minute, answer: func(Device, int) Answer { return Answer{Broken: "no answer in time"} }}
	var r *Report
	synctest.Test(t, func(t *testing.T) {
		s.begun = time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		r = f.Run(ctx, Enroll, s, usual, Watch{})
	})
	if r.Good() || r.Left != 10 || r.Because != causeInterrupted || r.Took != 30 || r.Failed != 0 || len(r.Broken) != 0 {
		t.Errorf("%+v", r)
	}
}

// What is not the device's certificate does not count as one.
func TestAnothersCertificate(t *testing.T) {
	f, other := fleetOf(t, 1), fleetOf(t, 1)
	s := &script{answer: func(d Device, _ int) Answer {
		d.Key, _ = other.keys.of(0)
		return issues(d, 1)
	}}
	if r := play(t, f, Enroll, s, usual, Watch{}); r.Good() || f.Certified() != 0 || r.Causes[0].Cause != "the certificate is not of the device's key" {
		t.Errorf("%+v", r)
	}
}

func TestRenewingTakesTheCertificate(t *testing.T) {
	f := fleetOf(t, 2)
	s := &script{answer: func(d Device, _ int) Answer {
		if d.Cert != nil {
			t.Error("a certificate to enrol with")
		}
		return issues(d, 1)
	}}
	play(t, f, Enroll, s, usual, Watch{})
	f.devices[1].cert = nil
	s = &script{answer: func(d Device, _ int) Answer {
		if d.Cert == nil || !certifies(d.Cert, d.Key) {
			t.Error("no certificate to renew with")
		}
		return issues(d, 1)
	}}
	before := string(f.devices[0].cert)
	r := play(t, f, Renew, s, usual, Watch{})
	if r.Issued != 1 || r.Failed != 1 || r.Causes[0].Cause != "has no certificate to renew" || string(f.devices[0].cert) == before {
		t.Errorf("%+v", r)
	}
}

// While devices wait they take neither a goroutine nor much memory: 100,000 devices are a few hundred MB at most.
func TestSmallWhileTheyWait(t *testing.T) {
	const n, perDevice = 5000, 2000
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	f := fleetOf(t, n)
	for i := range f.devices {
		f.devices[i].cert = make([]byte, 700)
	}
	s := &script{answer: func(Device, int) Answer { return Answer{Away: "503", After: 10 * time.Minute} }}
	looked := false
	idle := runtime.NumGoroutine()
	watch := Watch{Show: func(at Standing) {
		if at.Waiting != n || looked {
			return
		}
		looked = true
		if used := int64(heap()-before) / n; used > perDevice {
			t.Errorf("%d bytes a device", used)
		}
		if more := runtime.NumGoroutine() - idle; more > usual.Concurrency {
			t.Errorf("%d goroutines for devices that wait", more)
		}
	}}
	pace := usual
	pace.GiveUp = 11 * time.Minute
	if play(t, f, Enroll, s, pace, watch); !looked {
		t.Error("never did all wait")
	}
	runtime.KeepAlive(f)
}

func TestProgress(t *testing.T) {
	var out strings.Builder
	f, s := fleetOf(t, 3), &script{took: 4 * time.Second, answer: issues}
	pace := usual
	pace.Concurrency = 1
	live := &Live{W: &out}
	play(t, f, Enroll, s, pace, Watch{Show: live.Show})
	want := "enroll: 5 s  1 of 3 issued, 1/s, 1 waiting, 1 asking, 0 turned away, 4000 ms\nenroll: 10 s  2 of 3 issued, 0/s, 0 waiting, 1 asking, 0 turned away, 4000 ms\n"
	if out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
	out.Reset()
	terminal := &Live{W: &out, Width: 30}
	terminal.Show(Standing{Phase: Renew, Devices: 5, Elapsed: time.Second})
	terminal.Show(Standing{Phase: Renew, Devices: 5, Elapsed: 2 * time.Second, Finished: true})
	if got := out.String(); got != "\rrenew: 1 s  0 of 5 issued, 0…\r"+strings.Repeat(" ", 29)+"\r" {
		t.Errorf("%q", got)
	}
	out.Reset()
	(&Live{W: &out, Width: 120}).Show(Standing{Phase: Renew, Devices: 5, Issued: 2, Failed: 1, Elapsed: time.Second})
	if got := out.String(); !strings.HasPrefix(got, "\r[############........] renew: 1 s  2 of 5 issued") {
		t.Errorf("%q", got)
	}
}

func TestFleetsThatAreNone(t *testing.T) {
	for _, c := range []struct {
		n                  int
		kind, subject, why string
	}{
		{0, P256, "CN={{n}}", "1 to 1000000"}, {MaxDevices + 1, P256, "CN={{n}}", "1 to 1000000"}, {2, P256, "CN=all", "the same for all"},
		{2, P256, "nonsense {{n}}", "the subject"}, {2, "P-224", "CN={{n}}", "P-256 or RSA-2048"},
	} {
		if _, err := NewFleet(c.n, c.kind, c.subject); err == nil || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

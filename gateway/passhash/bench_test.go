package passhash

import (
	"fmt"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/argon2"
)

// cpu is what this process has used of the processors, page faults and the collector included.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkGuess is what a guess at a password costs by its parameters, in CPU: computed, and its memory collected, as authz does. The
// parameters come in turn, so that whatever else the machine does meets all of them alike; the median and the least are told.
func BenchmarkGuess(b *testing.B) {
	memory := []uint32{12288, 14336, 19456}
	spent := map[uint32][]time.Duration{}
	salt := make([]byte, argonSalt)
	for b.Loop() {
		for _, m := range memory {
			begun := cpu(b)
			argon2.IDKey([]byte("wrong"), salt, argonTime, m, argonThreads, argonHash)
			runtime.GC()
			spent[m] = append(spent[m], cpu(b)-begun)
		}
	}
	for m, all := range spent {
		slices.Sort(all)
		b.ReportMetric(float64(all[len(all)/2])/1e6, fmt.Sprintf("ms-median/m=%d", m))
		b.ReportMetric(float64(all[0])/1e6, fmt.Sprintf("ms-least/m=%d", m))
	}
}

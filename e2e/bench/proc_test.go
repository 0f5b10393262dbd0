//go:build bench

package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// used is what processes have used of the processors, user and system, in microseconds: the sum of their threads', which the kernel keeps to
// the nanosecond (schedstat) and not in ticks.
func used(t testing.TB, processes []int) (us float64) {
	t.Helper()
	for _, pid := range processes {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		if len(threads) == 0 {
			t.Fatalf("process %d has ended, or this kernel has no schedstat", pid)
		}
		for _, file := range threads {
			text, err := os.ReadFile(file)
			if err != nil {
				continue // a thread that has just ended
			}
			ns, err := strconv.ParseFloat(strings.Fields(string(text))[0], 64)
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			us += ns / 1000
		}
	}
	return us
}

// resident is the memory of processes, in bytes.
func resident(t testing.TB, processes []int) (bytes int64) {
	t.Helper()
	for _, pid := range processes {
		bytes += status(t, pid, "VmRSS") << 10
	}
	return bytes
}

func status(t testing.TB, pid int, field string) (n int64) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			if n, err = strconv.ParseInt(strings.Fields(value)[0], 10, 64); err != nil {
				t.Fatal(err)
			}
		}
	}
	return n
}

// children are the processes that a process has begun.
func children(t testing.TB, pid int) (out []int) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		child, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", child))
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(text), ") ")
		if f := strings.Fields(rest); len(f) > 1 && f[1] == strconv.Itoa(pid) {
			out = append(out, child)
		}
	}
	return out
}

// machine says what this is measured on.
func machine() string {
	model := "an unknown processor"
	text, _ := os.ReadFile("/proc/cpuinfo")
	n := 0
	for line := range strings.Lines(string(text)) {
		if k, v, _ := strings.Cut(line, ":"); strings.TrimSpace(k) == "model name" {
			model = strings.TrimSpace(v)
			n++
		}
	}
	return fmt.Sprintf("%d × %s", n, model)
}

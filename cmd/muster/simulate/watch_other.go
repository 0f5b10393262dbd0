//go:build !linux

package simulate

import "errors"

// ListenerOf is for Linux only.
func ListenerOf(string) (pid int, err error) {
	return 0, errors.New("which process listens is known on Linux only")
}

// SampleOf is for Linux only.
func SampleOf(int) (Sample, bool) { return Sample{}, false }

package serve

import "golang.org/x/sys/unix"

// otherDescriptors is more than a gateway has open beside its clients' connections: store, plugins, CAs, operators.
const otherDescriptors = 256

// descriptors is how many files the process may have open. Go raises the soft limit to the hard one at the start.
func descriptors() (uint64, error) {
	var l unix.Rlimit
	err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l)
	return uint64(l.Cur), err //nolint:unconvert // signed on some systems
}

// tellDescriptors warns, once for each number, when the listeners may have more connections than the process may have files open: places
// would not be full when accepting fails.
func (s *Set) tellDescriptors(specs map[string]Spec) {
	need := uint64(otherDescriptors)
	for _, spec := range specs {
		need += uint64(spec.bounds().all)
	}
	limit, err := s.limit()
	if err != nil || limit >= need || s.told == need {
		return
	}
	s.told = need
	s.log.Warn("fewer open files are allowed than the listeners' connections need: raise the hard limit (LimitNOFILE= of systemd, ulimit -n), or lower connections of the listeners",
		"limit", limit, "needed", need)
}

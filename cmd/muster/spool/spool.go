// Package spool answers messages that somebody puts into a folder: files in DIR/in are processed once each, in the order of
// their names, and the answers lie in DIR/out under the same names. `muster serve` runs one for every endpoint that has
// `files: {spool: DIR}`. It knows nothing of the messages: that is what its Process does.
//
//	DIR/in/NAME.pki       a request. It is there whole: written elsewhere on the same file system, and moved here
//	DIR/out/NAME.pki      its answer, there whole too
//	DIR/done/NAME.pki     the request, once it is answered
//	DIR/failed/NAME.pki   a file that was no request, with NAME.pki.txt, which says why
//
// A crash at any point loses nothing and answers nothing twice in another way: a request leaves in/ after its answer lies in
// out/, and until then it is processed again, which gives the same answer.
package spool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The folders below the spool's own.
const (
	dirIn     = "in"
	dirOut    = "out"
	dirDone   = "done"
	dirFailed = "failed"
	lockFile  = ".lock"
)

const (
	extension = ".pki" // what openssl calls files with one DER PKIMessage
	maxName   = 200    // bytes: .txt and the marks of a temporary file fit behind it
	maxSeen   = 16384  // entries of in/ that are looked at at a time
	maxAtOnce = 256    // and files that are processed

	pollEvery = time.Second
	resting   = 2 * time.Second  // a file that has not changed for so long is whole
	pause     = 30 * time.Second // after a failure that may pass

	processTimeout = 2 * time.Minute // of one request; a CA that is slower is polled
)

// ErrLater is wrapped by errors of Process that will pass: the file stays in in/ and is tried again.
var ErrLater = errors.New("try again later")

// Config is what a Spool is made of. All is required.
type Config struct {
	Dir   string // made with its folders where it is not there, mode 0700
	Limit int64  // bytes of a request
	// Process answers a request. The same request gets an equal answer. The words of an error go into the .txt file; one that
	// wraps ErrLater leaves the request where it is.
	Process func(ctx context.Context, request []byte) (answer []byte, err error)
	Clock   func() time.Time
	Log     *slog.Logger
}

// Spool watches one folder. Open makes it, Run runs it.
type Spool struct {
	Config
	root *os.Root
	lock *os.File
	// What the last look saw. Files that are told of are told of once.
	seen  map[string]look
	told  map[string]string // by name, "" for the folder
	until time.Time         // of the pause after a failure
}

// look is what a file in in/ was when it was looked at.
type look struct {
	info  fs.FileInfo
	since time.Time // it has been the same
	after time.Time // it is not tried before
}

// Open takes the folder for this process, and makes what is missing of it. The error says what is wrong with it.
func Open(c Config) (*Spool, error) {
	if err := os.Mkdir(c.Dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	root, err := os.OpenRoot(c.Dir)
	if err != nil {
		return nil, err
	}
	s := &Spool{Config: c, root: root, seen: map[string]look{}, told: map[string]string{}}
	if err := s.take(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Close gives the folder free. Run is over.
func (s *Spool) Close() {
	if s.lock != nil {
		s.lock.Close()
	}
	s.root.Close()
}

func (s *Spool) take() error {
	if err := s.own("."); err != nil {
		return err
	}
	for _, dir := range []string{dirIn, dirOut, dirDone, dirFailed} {
		if err := s.root.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := s.own(dir); err != nil {
			return err
		}
	}
	// What crashed left halves behind.
	for _, dir := range []string{dirOut, dirFailed} {
		if err := s.sweep(dir); err != nil {
			return err
		}
	}
	var err error
	if s.lock, err = s.root.OpenFile(lockFile, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return err
	}
	if err := unix.Flock(int(s.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("%s is watched by another gateway, or another endpoint: each has its own", s.Dir)
	} else if err != nil {
		return fmt.Errorf("locking %s: %w", s.Dir, err)
	}
	return nil
}

// Run looks every second until ctx ends. What is under way then is ended first.
func (s *Spool) Run(ctx context.Context) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		s.Look(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Look processes what is there now.
func (s *Spool) Look(ctx context.Context) {
	now := s.Clock()
	if now.Before(s.until) {
		return
	}
	if err := s.look(ctx, now); err != nil && ctx.Err() == nil {
		s.until = now.Add(pause)
		if s.told[""] != err.Error() {
			s.Log.Error("spool: requests wait", "spool", s.Dir, "err", err)
		}
		s.told[""] = err.Error()
		return
	}
	delete(s.told, "")
}

// look is Look, up to the first failure that is not of one file.
func (s *Spool) look(ctx context.Context, now time.Time) error {
	names, more, err := s.names(dirIn, func(name string) bool {
		return strings.HasSuffix(name, extension) && name[0] != '.' && len(name) <= maxName
	})
	if err != nil {
		return err
	}
	if more {
		s.tell("./", "more entries than are looked at at a time: take away what is not for the gateway", dirIn)
	}
	seen := map[string]look{}
	for _, name := range names[:min(len(names), maxAtOnce)] {
		if ctx.Err() != nil {
			return nil
		}
		info, err := s.root.Lstat(dirIn + "/" + name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			s.tell(name, "left alone: it is not a regular file", name)
			seen[name] = look{info: info, since: now}
			continue
		}
		this := look{info: info, since: now}
		if last, ok := s.seen[name]; ok && same(last.info, info) {
			this.since, this.after = last.since, last.after
		}
		seen[name] = this
		// A time of change in the future says nothing: then what was seen counts.
		if now.Sub(info.ModTime()) < resting && now.Sub(this.since) < resting || now.Before(this.after) {
			continue
		}
		if err := s.answer(ctx, name, info); errors.Is(err, ErrLater) {
			// Others may be answered meanwhile.
			this.after = now.Add(pause)
			seen[name] = this
			s.tell(name, err.Error(), name)
		} else if err != nil {
			return err
		} else {
			delete(seen, name)
		}
	}
	for name := range s.told {
		if _, still := seen[name]; !still && name != "" && name != "./" {
			delete(s.told, name)
		}
	}
	s.seen = seen
	return nil
}

func same(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// tell logs what stays true about a file once.
func (s *Spool) tell(key, what, file string) {
	if s.told[key] != what {
		s.told[key] = what
		s.Log.Warn("spool: "+what, "spool", s.Dir, "file", file)
	}
}

// answer processes one file, and moves it on. Afterwards it is in done/ or in failed/; with an error it is where it was.
func (s *Spool) answer(ctx context.Context, name string, info fs.FileInfo) error {
	request, why, err := s.read(dirIn, name, info)
	if err != nil || why == changing {
		return err
	}
	if why == "" {
		why, err = s.taken(name, request)
		if err != nil {
			return err
		}
	}
	if why != "" {
		return s.fail(name, why)
	}
	// What has begun is ended: an answer that says "stopping" would be carried away as the answer.
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), processTimeout)
	defer cancel()
	answer, err := s.Process(limited, request)
	switch {
	case errors.Is(err, ErrLater):
		return err
	case err != nil:
		return s.fail(name, err.Error())
	}
	if err := s.write(dirOut, name, answer); err != nil {
		return err
	}
	if err := s.move(name, dirDone); err != nil {
		return err
	}
	s.Log.Info("spool: answered", "spool", s.Dir, "file", name, "bytes", len(answer))
	return nil
}

// taken says why a name cannot be used: another request had it, whose answer may not have been fetched. The same request may
// come again.
func (s *Spool) taken(name string, request []byte) (why string, err error) {
	info, err := s.root.Lstat(dirDone + "/" + name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", err
	}
	const used = "another request of this name was answered before (it is in done): give each request a name of its own"
	if !info.Mode().IsRegular() {
		return used, nil
	}
	before, why, err := s.read(dirDone, name, info)
	if err != nil {
		return "", err
	}
	if why != "" || string(before) != string(request) {
		return used, nil
	}
	return "", nil
}

// fail moves a file to failed/, after the reason.
func (s *Spool) fail(name, why string) error {
	if err := s.write(dirFailed, name+".txt", []byte(line(why)+"\n")); err != nil {
		return err
	}
	if err := s.move(name, dirFailed); err != nil {
		return err
	}
	s.Log.Warn("spool: a file that is no request", "spool", s.Dir, "file", name, "why", why)
	return nil
}

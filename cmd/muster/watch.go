package main

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	settleQuiet = 500 * time.Millisecond // without a change, after which what is written counts as written
	settleMost  = 5 * time.Second        // after the first change it is read whatever goes on
)

// fileWatch has the configuration read again when it changes, or a file that it names (`watch: true`). It watches folders: editors
// and Kubernetes put another file into the place of one. Each state of the files is read once, be it good or bad.
type fileWatch struct {
	log    *slog.Logger
	reload func(ctx context.Context) // and tells what is to be watched then
	now    func() time.Time
	after  func(time.Duration) <-chan time.Time

	changed chan struct{} // holds one element when something was told
	mu      sync.Mutex
	on      bool
	seen    fileMarks // of the files when they were read last
}

func newFileWatch(log *slog.Logger, reload func(ctx context.Context)) *fileWatch {
	return &fileWatch{log: log, reload: reload, now: time.Now, after: time.After, changed: make(chan struct{}, 1)}
}

// tell says what is watched from now on: the files, as they were before they were read last.
func (w *fileWatch) tell(on bool, seen fileMarks) {
	w.mu.Lock()
	w.on, w.seen = on, seen
	w.mu.Unlock()
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

func (w *fileWatch) told() (bool, fileMarks) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.on, w.seen
}

// run watches until ctx ends.
func (w *fileWatch) run(ctx context.Context) {
	f := &folderWatch{log: w.log}
	defer f.close()
	var first time.Time          // of the changes that have not been looked at
	var settled <-chan time.Time // nil: there are none
	stir := func() {
		now := w.now()
		if settled == nil {
			first = now
		}
		settled = w.after(settleIn(first, now))
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.changed:
			on, seen := w.told()
			if !on {
				f.close()
				settled = nil
				continue
			}
			f.watch(seen.folders())
			if settled == nil && len(seen.again().others(seen)) > 0 {
				stir() // it has changed since it was read, and before it was watched
			}
		case <-f.events():
			stir()
		case err := <-f.errors():
			// Most likely that there was too much at once: then nobody knows what.
			w.log.Warn("watching the configuration's files", "err", err)
			stir()
		case <-settled:
			settled = nil
			on, seen := w.told()
			if !on {
				continue
			}
			// In this order: what changes after the look is an event.
			f.watch(seen.folders()) // one of them may be another folder by now
			if len(seen.again().others(seen)) > 0 {
				w.reload(ctx)
			}
		}
	}
}

// settleIn is how long after now changes that began at first are waited for.
func settleIn(first, now time.Time) time.Duration {
	return max(min(settleQuiet, first.Add(settleMost).Sub(now)), 0)
}

// folderWatch is the folders that are watched. Its zero value watches none.
type folderWatch struct {
	log     *slog.Logger
	watcher *fsnotify.Watcher
	folders map[string]folderID // that each was: another may have its name by now
	failed  map[string]bool     // told in the log
}

func (f *folderWatch) events() <-chan fsnotify.Event {
	if f.watcher == nil {
		return nil
	}
	return f.watcher.Events
}

func (f *folderWatch) errors() <-chan error {
	if f.watcher == nil {
		return nil
	}
	return f.watcher.Errors
}

func (f *folderWatch) close() {
	if f.watcher != nil {
		f.watcher.Close() //nolint:errcheck // nobody waits for more
	}
	*f = folderWatch{log: f.log}
}

// unwatched says what an operator can do where a folder cannot be watched.
const unwatched = "changes there are not seen (inotify has limits: fs.inotify.max_user_watches and max_user_instances); SIGHUP and `muster reload` read them all the same"

// watch watches these folders, and no others.
func (f *folderWatch) watch(want map[string]bool) {
	if f.watcher != nil && !f.good(want) {
		// From the beginning: two names of one folder share a watch, and what ends one ends the other's.
		f.watcher.Close() //nolint:errcheck // nobody waits for more
		f.watcher = nil
	}
	if f.watcher == nil {
		watcher, err := fsnotify.NewWatcher()
		if err != nil {
			if !f.failed[""] {
				f.log.Error("the configuration's files cannot be watched: "+unwatched, "err", err)
				f.failed = map[string]bool{"": true} // and all that failed before
			}
			return
		}
		if delete(f.failed, ""); f.failed == nil {
			f.failed = map[string]bool{}
		}
		f.watcher, f.folders = watcher, map[string]folderID{}
	}
	for folder := range want {
		if _, watched := f.folders[folder]; watched {
			continue
		}
		number := folderOf(folder)
		if err := f.watcher.Add(folder); err != nil {
			if !f.failed[folder] {
				f.log.Error("a folder of the configuration's files cannot be watched: "+unwatched, "folder", folder, "err", err)
				f.failed[folder] = true
			}
			continue
		}
		f.folders[folder] = number
		delete(f.failed, folder)
	}
}

// good reports whether every folder that is watched is wanted, is the one that it was, and has not been moved or removed meanwhile, which
// ends its watch even if it came back.
func (f *folderWatch) good(want map[string]bool) bool {
	alive := map[folderID]bool{} // one name of each
	for _, folder := range f.watcher.WatchList() {
		alive[f.folders[folder]] = true
	}
	for folder, id := range f.folders {
		if !want[folder] || folderOf(folder) != id || !alive[id] {
			return false
		}
	}
	return true
}

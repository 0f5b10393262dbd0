package console

import (
	"context"
	"errors"
	"io"
	"mime/multipart"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/muster-pki/muster/gateway/admin"
)

// Bounds of an upload. Larger files go by `muster device import`, which does not hold them in the gateway's memory.
const (
	maxUpload  = 32 << 20 // bytes
	uploadIdle = 30 * time.Second
	uploadTime = 5 * time.Minute // for a whole file: somebody else may be waiting
	shownLines = 200             // of what is wrong with a file
	soon       = 700 * time.Millisecond
)

// importJob is an import under way, or what came of it.
type importJob struct {
	file    string
	check   bool // nothing is to be imported
	ended   chan struct{}
	mu      sync.Mutex
	done    int
	total   int
	result  *admin.ImportResult
	trouble []string // lines; nil: none
	more    int      // lines
}

func (j *importJob) over() bool {
	select {
	case <-j.ended:
		return true
	default:
		return false
	}
}

// fails notes what is wrong, a line each.
func (j *importJob) fails(words string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.trouble = slices.DeleteFunc(strings.Split(strings.TrimRight(words, "\n"), "\n"), func(line string) bool { return line == "nothing was imported" }) // which the page says above them
	if n := len(j.trouble); n > shownLines {
		j.trouble, j.more = append(j.trouble[:shownLines-1:shownLines-1], j.trouble[n-1]), n-shownLines
	}
}

type importPage struct {
	Running     bool
	File        string
	Done, Total int
	Percent     int
	Check       bool
	Result      *admin.ImportResult
	Trouble     []string
	More        int
	Job         bool
	Most        int // MiB
}

// showImport asks for a file.
func (k *Console) showImport(v *visit) error {
	return v.show(http.StatusOK, "import", "Import devices", importPage{Most: maxUpload >> 20})
}

// importState tells how far the session's import has come. The page asks again until it is over.
func (k *Console) importState(v *visit) error {
	v.session.mu.Lock()
	j := v.session.job
	v.session.mu.Unlock()
	if j == nil {
		v.to("devices/import")
		return nil
	}
	return v.show(http.StatusOK, "import", "Import devices", j.page())
}

func (j *importJob) page() importPage {
	running := !j.over()
	j.mu.Lock()
	defer j.mu.Unlock()
	p := importPage{Running: running, File: j.file, Done: j.done, Total: j.total, Check: j.check, Result: j.result, Trouble: j.trouble, More: j.more, Job: true, Most: maxUpload >> 20}
	if j.total > 0 {
		p.Percent = 100 * j.done / j.total
	}
	return p
}

// importDevices takes a file in. What is wrong with it is told as `muster device import` does; nothing of it is imported then.
func (k *Console) importDevices(v *visit) error {
	select {
	case k.Sessions.uploading <- struct{}{}:
		defer func() { <-k.Sessions.uploading }()
	default:
		return refuse(http.StatusConflict, "somebody else is sending a file just now: try again")
	}
	v.session.mu.Lock()
	busy := v.session.job != nil && !v.session.job.over()
	v.session.mu.Unlock()
	if busy {
		return refuse(http.StatusConflict, "your last import is not over yet")
	}
	file, replace, check, all, refused, err := v.upload()
	if file == "" {
		return err
	}
	j := &importJob{file: file, check: check, ended: make(chan struct{}), total: len(all)}
	switch {
	case err != nil:
		j.fails(err.Error())
		close(j.ended)
		return v.show(http.StatusUnprocessableEntity, "import", "Import devices", j.page())
	case check:
		close(j.ended)
		return v.show(http.StatusOK, "import", "Import devices", j.page())
	}
	v.session.mu.Lock()
	v.session.job = j
	v.session.mu.Unlock()
	api := v.api()
	if !k.Sessions.run(func(ctx context.Context) {
		defer close(j.ended)
		j.take(ctx, api, all, replace, refused)
	}) {
		return refuse(http.StatusServiceUnavailable, "the gateway is stopping")
	}
	select { // most are over at once
	case <-j.ended:
	case <-time.After(soon):
	case <-v.r.Context().Done():
	}
	v.to("devices/import/state")
	return nil
}

// take has the gateway store the entries.
func (j *importJob) take(ctx context.Context, api *admin.Client, all []admin.Device, replace bool, refused func(*admin.ImportError) error) {
	result, err := api.ImportDevices(ctx, all, replace, func(done, total int) {
		j.mu.Lock()
		j.done, j.total = done, total
		j.mu.Unlock()
	})
	if wrong, ok := errors.AsType[*admin.ImportError](err); ok {
		words := refused(wrong).Error()
		if !replace && strings.Contains(words, "stands already") {
			words += "\ntick replace to put the file's entries into the place of those that stand"
		}
		j.fails(words)
		return
	}
	if err != nil {
		j.fails(err.Error())
		return
	}
	j.mu.Lock()
	j.result, j.done = result, len(all)
	j.mu.Unlock()
}

// upload reads the form: its token first, then the ticks, the file last. file is its name, "" where the error is about the form.
func (v *visit) upload() (file string, replace, check bool, all []admin.Device, refused func(*admin.ImportError) error, err error) {
	conn := http.NewResponseController(v.w)
	body := http.MaxBytesReader(v.w, v.r.Body, maxUpload+maxForm)
	v.r.Body = io.NopCloser(steady{body, conn, time.Now().Add(uploadTime)})
	fail := func(status int, words string) (string, bool, bool, []admin.Device, func(*admin.ImportError) error, error) {
		return "", false, false, nil, nil, refuse(status, "%s", words)
	}
	form, err := v.r.MultipartReader()
	if err != nil {
		return fail(http.StatusUnsupportedMediaType, "want a form with a file")
	}
	known := false
	for n := 0; n < 8; n++ {
		part, err := form.NextPart()
		if err != nil {
			break
		}
		if part.FormName() != "file" {
			text, err := io.ReadAll(io.LimitReader(part, 1024))
			if err != nil {
				break
			}
			switch part.FormName() {
			case "token":
				known = v.session.holds(string(text))
			case "replace":
				replace = true
			case "check":
				check = true
			}
			continue
		}
		if !known {
			return fail(http.StatusForbidden, "the form is not one of this session's: load the page again")
		}
		return v.read(part, conn, replace, check)
	}
	if !known {
		return fail(http.StatusForbidden, "the form is not one of this session's: load the page again")
	}
	return fail(http.StatusBadRequest, "there is no file in the form: choose one")
}

// read reads the file itself.
func (v *visit) read(part *multipart.Part, conn *http.ResponseController, replace, check bool) (string, bool, bool, []admin.Device, func(*admin.ImportError) error, error) {
	name := part.FileName()
	if name == "" {
		return "", false, false, nil, nil, refuse(http.StatusBadRequest, "there is no file in the form: choose one")
	}
	all, refused, err := v.k.ReadDevices(name, part)
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return "", false, false, nil, nil, refuse(http.StatusRequestEntityTooLarge, "the file is larger than %d MiB: import it in parts, or by muster device import", maxUpload>>20)
	}
	_ = conn.SetWriteDeadline(time.Now().Add(maxWait))
	return name, replace, check, all, refused, err
}

// steady is a body that must not stand still, and ends in time.
type steady struct {
	io.Reader
	conn interface {
		SetReadDeadline(time.Time) error
		SetWriteDeadline(time.Time) error
	}
	last time.Time
}

func (s steady) Read(p []byte) (int, error) {
	until := time.Now().Add(uploadIdle)
	if until.After(s.last) {
		until = s.last
	}
	_ = s.conn.SetReadDeadline(until) // where it cannot be set, the server's own stand
	_ = s.conn.SetWriteDeadline(until.Add(maxWait))
	return s.Reader.Read(p)
}

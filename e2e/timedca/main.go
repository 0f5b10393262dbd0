// Command timedca is the local CA as a third party's plugin that writes down when it is asked to issue: a line with the Unix time in
// nanoseconds for each, in a file beside its folder, with ".times" at its name's end.
package main

import (
	"context"
	"errors"
	"os"
	"regexp"
	"strconv"
	"time"

	"github.com/muster-pki/muster/backends/local"
	"github.com/muster-pki/muster/plugins/backend"
)

type timed struct {
	*local.CA
	times *os.File
}

var folder = regexp.MustCompile(`\bdir: *"?([^\s#",}]+)`)

func (t *timed) Configure(ctx context.Context, config []byte) error {
	dir := folder.FindSubmatch(config)
	if dir == nil {
		return errors.New("no dir")
	}
	var err error
	if t.times, err = os.OpenFile(string(dir[1])+".times", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return err
	}
	return t.CA.Configure(ctx, config)
}

func (t *timed) Issue(ctx context.Context, q *backend.IssueRequest) (*backend.Issuance, error) {
	if _, err := t.times.WriteString(strconv.FormatInt(time.Now().UnixNano(), 10) + "\n"); err != nil {
		return nil, err
	}
	return t.CA.Issue(ctx, q)
}

func main() { backend.Serve(&timed{CA: local.New(local.Options{Log: backend.Logger()})}) }

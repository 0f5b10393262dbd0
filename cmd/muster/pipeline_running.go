package main

import (
	"context"
	"path/filepath"
	"time"

	"github.com/muster-pki/muster/cmd/muster/words"
	"github.com/muster-pki/muster/gateway/admin"
)

// askedFor bounds the question to the gateway on this machine: the drawing is there without its answer.
const askedFor = time.Second

// running says that the gateway on this machine goes by something else than what is drawn; "" where it does not, and where none answers.
func (f *pipelineFlags) running(ctx context.Context, c *Config) string {
	dir, err := (&serveOptions{data: f.data, config: f.config}).dataDir()
	if err != nil {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, askedFor)
	defer cancel()
	s, err := admin.NewClient(filepath.Join(dir, adminSocket)).Status(ctx)
	if err != nil || s.Configuration == nil {
		return ""
	}
	switch is := s.Configuration; {
	case !sameFile(is.File, c.file):
		return "The gateway that runs goes by another file, " + is.File
	case is.SHA256 != c.sha256:
		return "The gateway that runs goes by an earlier or other version of this file, in force since " + words.Moment(is.Since) + ": muster reload has it read this one"
	}
	return ""
}

// sameFile compares the names of two files, one of which another process was given in a directory of its own.
func sameFile(theirs, ours string) bool {
	if filepath.Base(theirs) != filepath.Base(ours) {
		return false
	}
	abs, err := filepath.Abs(ours)
	return !filepath.IsAbs(theirs) || err != nil || filepath.Clean(theirs) == abs
}

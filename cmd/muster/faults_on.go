//go:build faults

package main

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/muster-pki/muster/gateway"
)

const (
	// crashVariable names a crash point, and which passing of it is meant: "gateway.after-intent:3". Both the gateway
	// and its plugins read it; a point exists in one of them only.
	crashVariable = "MUSTER_CRASH_AT"
	// onceVariable names a file that is made before the crash; where it exists, nothing crashes. A plugin that is
	// started again would die again otherwise.
	onceVariable = "MUSTER_CRASH_ONCE"
	// bothVariable, when set, has a plugin that dies take the gateway with it, as a power cut does.
	bothVariable = "MUSTER_CRASH_BOTH"
	// deafVariable names a file: while it exists, no stage gets an answer from the store.
	deafVariable = "MUSTER_STAGES_DEAF"
	// rsaVariable is a kind of key, such as RSA-2048.
	rsaVariable = "MUSTER_FAULT_RSA"
	// issueVariable is for how long a CA may take to answer, a Go duration.
	issueVariable = "MUSTER_ISSUE_TIMEOUT"
)

// issueTimeout is gateway.Options.IssueTimeout, 0 for its default.
func issueTimeout() time.Duration {
	d, err := time.ParseDuration(os.Getenv(issueVariable))
	if err != nil {
		return 0
	}
	return d
}

// crashFunc returns what kills this process at the point, as a power cut would: nothing is flushed or told.
func crashFunc() func(point string) {
	setting := os.Getenv(crashVariable)
	if setting == "" {
		return nil
	}
	at, count, _ := strings.Cut(setting, ":")
	n, err := strconv.ParseInt(count, 10, 64)
	if err != nil || n < 1 {
		n = 1
	}
	var left atomic.Int64
	left.Store(n)
	return func(point string) {
		if point != at || left.Add(-1) != 0 {
			return
		}
		if once := os.Getenv(onceVariable); once != "" {
			f, err := os.OpenFile(once, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return
			}
			f.Close()
		}
		if len(os.Args) > 1 && os.Args[1] == "plugin" && os.Getenv(bothVariable) != "" {
			syscall.Kill(os.Getppid(), syscall.SIGKILL) //nolint:errcheck // it may have ended
		}
		syscall.Kill(os.Getpid(), syscall.SIGKILL) //nolint:errcheck // it cannot fail on oneself
		select {}                                  // the signal may take a moment
	}
}

// rsaKey is the kind of key of a local CA's issuer rsa: RSA-3072 takes a second to make, and tests make hundreds.
func rsaKey() string { return os.Getenv(rsaVariable) }

// faultEnv passes the settings on to plugins, which inherit no environment.
func faultEnv() []string {
	var env []string
	for _, name := range []string{crashVariable, onceVariable, bothVariable, rsaVariable} {
		if v := os.Getenv(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// deaf is a store that stages get no answer from while a file exists.
type deaf struct {
	stageStore
	file string
}

func lookUps(s stageStore) stageStore {
	if file := os.Getenv(deafVariable); file != "" {
		return deaf{s, file}
	}
	return s
}

func (d deaf) err() error {
	if _, err := os.Stat(d.file); err == nil {
		return errors.New("the store does not answer, for a test")
	}
	return nil
}

func (d deaf) Certificate(ctx context.Context, issuer, serial []byte) (*gateway.Certificate, error) {
	if err := d.err(); err != nil {
		return nil, err
	}
	return d.stageStore.Certificate(ctx, issuer, serial)
}

func (d deaf) Secret(ctx context.Context, endpoint, reference string) (*gateway.StoredSecret, error) {
	if err := d.err(); err != nil {
		return nil, err
	}
	return d.stageStore.Secret(ctx, endpoint, reference)
}

func (d deaf) Device(ctx context.Context, kind, value string) (*gateway.Device, error) {
	if err := d.err(); err != nil {
		return nil, err
	}
	return d.stageStore.Device(ctx, kind, value)
}

func (d deaf) Challenge(ctx context.Context, hash []byte) (*gateway.IssuedChallenge, error) {
	if err := d.err(); err != nil {
		return nil, err
	}
	return d.stageStore.Challenge(ctx, hash)
}

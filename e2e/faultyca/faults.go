package main

import (
	"context"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
)

func commonName(subject []byte) (string, error) {
	var rdns pkix.RDNSequence
	if _, err := asn1.Unmarshal(subject, &rdns); err != nil {
		return "", err
	}
	var name pkix.Name
	name.FillFromRDNSequence(&rdns)
	if name.CommonName == "" {
		return "-", nil
	}
	return name.CommonName, nil
}

func faultOf(name string) string {
	fault, _, _ := strings.Cut(name, "-")
	return fault
}

func (c *ca) late() time.Duration { return time.Duration(c.Late) * time.Millisecond }

// holds reports whether the test holds Lookup back.
func (c *ca) holds() bool {
	_, err := os.Stat(filepath.Join(c.Dir, "hold"))
	return err == nil
}

// mood is what stands in the file "mood": how all calls go wrong, whatever their names.
func (c *ca) mood() string {
	b, err := os.ReadFile(filepath.Join(c.Dir, "mood"))
	if err != nil {
		return ""
	}
	return string(b)
}

// down is the error of a call that is not even begun: "unreached" says that the CA was not asked, "hang" says nothing at all. "drop"
// fails what is no Issue, and an Issue once it has signed.
func (c *ca) down(ctx context.Context, issue bool) error {
	switch mood := c.mood(); {
	case mood == "unreached" && issue:
		return backend.Exhausted(5*time.Second, "not asked: the CA cannot be reached")
	case mood == "hang":
		<-ctx.Done()
		return ctx.Err()
	case mood == "unreached", mood == "drop" && !issue:
		return backend.Refuse(codes.Unavailable, "the CA cannot be reached")
	}
	return nil
}

// failing are the codes of "fail": none proves that nothing was issued. RESOURCE_EXHAUSTED names no delay, ALREADY_EXISTS and
// NOT_FOUND look like answers, and are none.
var failing = []codes.Code{
	codes.Unavailable, codes.Internal, codes.DeadlineExceeded, codes.Unknown, codes.Aborted, codes.Canceled, codes.ResourceExhausted, codes.AlreadyExists,
	codes.NotFound, codes.DataLoss,
}

// fault goes wrong in the way that the name begins with, after the ledger has the certificate: "late" and "within" (an eighth of that)
// wait, "drop" says UNAVAILABLE, "cut" ends the connection, "die" the process, "fail" says one of many codes, "lie" that the request was
// refused. again: the ID was in the ledger before this call, whose fault is over then, unless the test holds it. A CA that can be asked
// what it did dies no more once the test holds nothing.
func (c *ca) fault(name string, again bool) error {
	f, held := faultOf(name), c.holds()
	deadly := f == "die" || f == "cut"
	switch {
	case again && (deadly || !held), deadly && !held && c.Idempotency != string(backend.IdempotencyNone):
		return nil
	}
	switch f {
	case "late":
		time.Sleep(c.late())
	case "within":
		time.Sleep(c.late() / 8)
	case "drop":
		return backend.Refuse(codes.Unavailable, "the answer was lost")
	case "cut", "die":
		// Who comes within this time dies of the same death.
		c.dying.Do(func() {
			time.Sleep(50 * time.Millisecond)
			if f == "cut" {
				cut()
			}
			syscall.Kill(os.Getpid(), syscall.SIGKILL) //nolint:errcheck // it cannot fail on oneself
		})
		select {}
	case "fail":
		h := fnv.New32a()
		fmt.Fprint(h, name)
		code := failing[h.Sum32()%uint32(len(failing))]
		return backend.Refuse(code, "persisted, and said to have failed: %s", code)
	case "lie":
		return backend.Refuse(codes.InvalidArgument, "a refusal that is not true")
	}
	return nil
}

// cut shuts down every socket of the process, and leaves it alive for a while: its host has to end it.
func cut() {
	for fd := 3; fd < 256; fd++ {
		syscall.Shutdown(fd, syscall.SHUT_RDWR) //nolint:errcheck // not a socket
	}
	time.Sleep(10 * time.Second)
}

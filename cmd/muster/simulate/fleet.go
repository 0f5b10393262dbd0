package simulate

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/muster-pki/muster/gateway/pkix"
)

// Number stands in a subject template where a device's number goes, with six digits at least.
const Number = "{{n}}"

// Fleet is the devices. Run may be called on it again and again, not at the same time.
type Fleet struct {
	keys    *keys
	subject string // template in the form of RFC 4514
	devices []device
}

// device is one device between its tries: small, since all of them stay in memory.
type device struct {
	cert    []byte // DER; nil until it has one
	open    any    // of the last answer
	first   time.Duration
	until   time.Duration // from its first try to its certificate
	latency time.Duration // of the try that got the certificate
	tries   int32
	broken  int32 // tries in a row without an answer
	fate    fate
}

type fate uint8

const (
	undecided fate = iota
	certified
	failed
)

// NewFleet makes n devices and their keys. The subject is a template such as "CN=sim-{{n}}".
func NewFleet(n int, kind, subject string) (*Fleet, error) {
	if n < 1 || n > MaxDevices {
		return nil, fmt.Errorf("%d devices: want 1 to %d", n, MaxDevices)
	}
	f := &Fleet{subject: subject, devices: make([]device, n)}
	if n > 1 && !strings.Contains(subject, Number) {
		return nil, fmt.Errorf("the subject %q is the same for all devices: let it have %s, for the device's number", subject, Number)
	}
	if _, err := f.name(0); err != nil {
		return nil, fmt.Errorf("the subject %q: %w", subject, err)
	}
	var err error
	f.keys, err = newKeys(kind, n)
	return f, err
}

// Devices is how many there are.
func (f *Fleet) Devices() int { return len(f.devices) }

// Keys is the kind of their keys.
func (f *Fleet) Keys() string { return f.keys.kind() }

// Certified is how many have a certificate.
func (f *Fleet) Certified() (n int) {
	for i := range f.devices {
		if f.devices[i].cert != nil {
			n++
		}
	}
	return n
}

// name is the subject of device n, as a DER Name. Devices are numbered from 1.
func (f *Fleet) name(n int) ([]byte, error) {
	return pkix.ParseRFC4514(strings.ReplaceAll(f.subject, Number, fmt.Sprintf("%06d", n+1)))
}

var (
	errNoCertificate = errors.New("has no certificate to renew")
	errNotCertified  = errors.New("has no certificate to revoke")
)

// at is device n as its client sees it.
func (f *Fleet) at(n int, phase Phase) (Device, error) {
	d := Device{Open: f.devices[n].open}
	if phase != Enroll {
		d.Revoke = phase == Revoke
		if d.Cert = f.devices[n].cert; d.Cert == nil && d.Revoke {
			return d, errNotCertified
		}
		if d.Cert == nil {
			return d, errNoCertificate
		}
	}
	var err error
	if d.Subject, err = f.name(n); err != nil {
		return d, err
	}
	d.Key, err = f.keys.of(n)
	return d, err
}

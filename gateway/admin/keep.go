package admin

import (
	"context"
	"errors"
	"fmt"

	"github.com/muster-pki/muster/gateway"
)

// keeping is what of an entry stands already and was said to be kept.
type keeping struct {
	index            int // of the entry
	device           *gateway.Device
	password, secret bool
}

func keepingOf(index int, d *gateway.Device, in *Device) (k keeping, some bool) {
	k = keeping{index, d, in.HasPassword && d.Password == "", in.HasSecret && d.Sealed == nil}
	return k, k.password || k.secret
}

// keep takes it over, in a turn of the caller's.
func (s *Server) keep(ctx context.Context, k keeping, replace bool) error {
	d, password, secret := k.device, k.password, k.secret
	const lacks = "the entry is said to have a %s, and gives none: give it, or leave has_%s out"
	var old gateway.Device
	if replace {
		found, err := s.config.Store.Device(ctx, "name", d.Name)
		if err != nil && !errors.Is(err, gateway.ErrNotFound) {
			return &storeError{err}
		}
		if found != nil {
			old = *found
		}
	}
	if password && old.Password == "" {
		return fmt.Errorf(lacks, "password", "password")
	}
	if secret && old.Sealed == nil {
		return fmt.Errorf(lacks, "secret", "secret")
	}
	if password {
		d.Password = old.Password
	}
	if secret {
		d.Sealed = old.Sealed
	}
	return nil
}

// storeError is one that is not about the entry.
type storeError struct{ error }

func (e *storeError) Unwrap() error { return e.error }

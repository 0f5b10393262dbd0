package frame

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestOnce(t *testing.T) {
	var o Once[int]
	if _, err := o.Get(t.Context()); status.Code(err) != codes.Unavailable || o.Load() != nil {
		t.Errorf("before Configure: %v", err)
	}
	first, second := 1, 2
	if err := o.Set(&first); err != nil {
		t.Fatal(err)
	}
	if err := o.Set(&second); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("configured twice: %v", err)
	}
	if r, err := o.Get(t.Context()); err != nil || r != &first || o.Load() != &first {
		t.Errorf("%v, %v", r, err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := o.Get(over); status.Code(err) != codes.Canceled {
		t.Errorf("a call that is over: %v", err)
	}
}

func TestParsed(t *testing.T) {
	if c, err := Parsed("config", nil); c != "config" || err != nil {
		t.Error(c, err)
	}
	if _, err := Parsed("", errors.New("url: wants https")); status.Code(err) != codes.InvalidArgument || status.Convert(err).Message() != "url: wants https" {
		t.Error(err)
	}
}

func TestFilled(t *testing.T) {
	if o := (Options{}).Filled(); o.Clock == nil || o.Log == nil || o.Version != "devel" {
		t.Errorf("%+v", o)
	}
	at := time.Unix(7, 0)
	if o := (Options{Clock: func() time.Time { return at }, Version: "1"}).Filled(); !o.Clock().Equal(at) || o.Version != "1" {
		t.Errorf("%+v", o)
	}
}

package store

import (
	"context"
	"errors"
	"time"

	"github.com/muster-pki/muster/gateway"
)

var errTodo = errors.New("not implemented yet")

func (s *Store) ImportDevices(context.Context, []*gateway.Device, bool, gateway.AuditEvent, func(int)) (int, int, error) {
	return 0, 0, errTodo
}
func (s *Store) DropDevice(context.Context, string, gateway.AuditEvent) error { return errTodo }
func (s *Store) Device(context.Context, string, string) (*gateway.Device, error) {
	return nil, errTodo
}
func (s *Store) Devices(context.Context, gateway.DeviceFilter) ([]*gateway.Device, error) {
	return nil, errTodo
}
func (s *Store) Uses(context.Context, []string) (map[string]int64, error) { return nil, errTodo }
func (s *Store) FreeClaims(context.Context, []string, gateway.AuditEvent) error {
	return errTodo
}
func (s *Store) PutChallenge(context.Context, *gateway.IssuedChallenge, gateway.AuditEvent) error {
	return errTodo
}
func (s *Store) Challenge(context.Context, []byte) (*gateway.IssuedChallenge, error) {
	return nil, errTodo
}
func (s *Store) Challenges(context.Context, string, time.Time, string, int) ([]*gateway.IssuedChallenge, error) {
	return nil, errTodo
}
func (s *Store) DropChallenge(context.Context, string, gateway.AuditEvent) error { return errTodo }
func (s *Store) Approve(context.Context, *gateway.ApprovalOrder) (int64, error)  { return 0, errTodo }
func (s *Store) Deny(context.Context, *gateway.DenialOrder) error                { return errTodo }
func (s *Store) Heard(context.Context, []gateway.Message) error                  { return errTodo }
func (s *Store) Messages(context.Context, string) ([]gateway.Message, error)     { return nil, errTodo }
func (s *Store) OrderRevocation(context.Context, *gateway.RevocationOrder) (int64, error) {
	return 0, errTodo
}

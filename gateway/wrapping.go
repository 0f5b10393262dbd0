package gateway

import (
	"context"
	"slices"
	"strings"
)

// WrappingKeys is implemented by stages that know key-encryption keys, with which keys that are made for devices are encrypted.
type WrappingKeys interface {
	// WrappingKey returns the key that devices name by the identifier at this endpoint. ErrNotFound when there is none.
	WrappingKey(ctx context.Context, endpoint string, id []byte) (Secret, error)
}

// WrappingKey returns the key-encryption key that a stage of the operation's pipeline knows under the identifier, nil when none does,
// or when it cannot be looked up: the stage says so, once it is known who asks.
func (g *Gateway) WrappingKey(ctx context.Context, endpoint string, op Operation, id []byte) Secret {
	e := g.runtime.Load().Endpoints[endpoint]
	if e == nil {
		return nil
	}
	var found Secret
	e.pipeline(op).Stages(func(s Stage) {
		if holder, ok := s.(WrappingKeys); ok && found == nil {
			found, _ = holder.WrappingKey(ctx, endpoint, id)
		}
	})
	return found
}

// preferred is the kind to make, of those that may be, for a request that leaves it open: the one that it prefers, or of its family
// (the digits behind a dash are a size), or the first.
func (k *KeyGen) preferred(kinds []string, first string) string {
	family := func(kind string) string { name, _, _ := strings.Cut(kind, "-"); return name }
	switch i := slices.IndexFunc(kinds, func(kind string) bool { return family(kind) == family(k.Prefer) }); {
	case k.Algorithm != "" || k.Prefer == "" || i < 0:
		return first
	case slices.Contains(kinds, k.Prefer):
		return k.Prefer
	default:
		return kinds[i]
	}
}

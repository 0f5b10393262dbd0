package backend

import (
	"errors"
	"fmt"

	pb "github.com/muster-pki/muster/plugins/backend/backendpb/v1"
)

// CheckHeard reports why a description and CAs that were read from elsewhere, such as a file, could not have come from a plugin: the same
// bounds hold for them, and each certificate has to parse.
func CheckHeard(d *Description, cas []CA) error {
	if d.Name == "" || !printable(d.Name, MaxName) || !printable(d.Version, MaxName) {
		return errors.New("no well-formed name and version")
	}
	if _, ok := wireOf(idempotencyNames, d.Idempotency); !ok {
		return fmt.Errorf("no idempotency that this gateway knows: %.40q", d.Idempotency)
	}
	if len(toWire(formNames, d.Forms)) != len(d.Forms) || len(toWire(fieldNames, d.Overrides)) != len(d.Overrides) ||
		len(toWire(fieldNames, d.Decides)) != len(d.Decides) || len(toWire(capabilityNames, d.Capabilities)) != len(d.Capabilities) {
		return errors.New("forms, fields or capabilities that this gateway does not know")
	}
	if len(d.Forms) == 0 {
		return errors.New("no form")
	}
	var wire []*pb.CA
	for i := range cas {
		wire = append(wire, caToWire(&cas[i]))
	}
	_, err := casFromWire(wire)
	return err
}

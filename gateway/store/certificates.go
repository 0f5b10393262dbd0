package store

import (
	"context"
	"fmt"

	"github.com/muster-pki/muster/gateway"
)

// MarkRevoked is gateway.Store. It ends the work under whose lease it was done, and any other that waits to revoke
// the same certificate.
func (s *Store) MarkRevoked(ctx context.Context, r *gateway.Revocation) error {
	body, err := eventBody(&r.Audit, required)
	if err != nil {
		return err
	}
	at := r.At
	if at.IsZero() {
		at = s.clock()
	}
	issuer, serial := blob(r.Issuer), magnitude(r.Serial)
	return s.write(ctx, func(u unit) error {
		if w := r.Work; w != nil {
			n, err := u.exec(endWork, w.Transaction, s.instance, w.Epoch)
			if err != nil {
				return fmt.Errorf("work of %s: %w", w.Transaction, err)
			}
			if n == 0 {
				return gateway.ErrStale
			}
		}
		// Work before anything else, as in the other writes.
		if _, err := u.exec(endRevocation, issuer, serial); err != nil {
			return fmt.Errorf("work: %w", err)
		}
		if _, err := u.exec(eraseKeyOfCertificate, issuer, serial); err != nil {
			return fmt.Errorf("key: %w", err)
		}
		n, err := u.exec(markRevoked, issuer, serial, micros(at), int64(r.Reason))
		if err != nil {
			return fmt.Errorf("certificate %x: %w", serial, err)
		}
		if n == 0 { // revoked before, or not ours
			var one int
			if err := u.queryRow(certificateExists, issuer, serial).Scan(&one); err != nil {
				return notFound(err)
			}
		}
		if _, err := u.exec(freeRepeatOfCertificate, issuer, serial); err != nil {
			return fmt.Errorf("repeat key: %w", err)
		}
		if n > 0 {
			if err := u.endActive(issuer, serial); err != nil {
				return err
			}
		}
		return u.audit(body)
	})
}

// Certificate is gateway.Store. Leading zeros of the serial number do not matter.
func (s *Store) Certificate(ctx context.Context, issuer, serial []byte) (*gateway.Certificate, error) {
	var r certificateRow
	if err := s.read(ctx, readCertificate, blob(issuer), magnitude(serial)).Scan(append(r.dest(), &r.state)...); err != nil {
		return nil, notFound(err)
	}
	return r.certificate()
}

// Certificates is gateway.Store.
func (s *Store) Certificates(ctx context.Context, f gateway.CertificateFilter) ([]*gateway.Certificate, error) {
	var q filter
	q.equal("c.device", f.Device)
	q.equal("c.requester", f.Requester)
	if f.SubjectRaw != nil {
		q.where("c.subject_raw = " + q.param(f.SubjectRaw))
	}
	if !f.ValidAt.IsZero() {
		at := q.param(micros(f.ValidAt))
		// RFC 5280 section 4.1.2.5: notAfter itself is still valid.
		q.where("c.not_after >= " + at + " AND (c.revoked_at = 0 OR c.revoked_at > " + at + ")")
	}
	if f.Renewed != nil {
		q.where("c.replaces = " + q.param(magnitude(f.Renewed)))
	}
	if f.Confirmed {
		q.where("t.confirmed > 0")
	}
	q.before("c.tx", f.Before)
	var out []*gateway.Certificate
	err := s.list(ctx, selectCertificate, &q, "c.tx DESC", f.Limit, func(scan func(...any) error) error {
		var r certificateRow
		if err := scan(append(r.dest(), &r.state)...); err != nil {
			return err
		}
		c, err := r.certificate()
		out = append(out, c)
		return err
	})
	return out, err
}

package cms

import "errors"

// Errors of signatures and envelopes, by errors.Is.
var (
	ErrAlgorithm = errors.New("algorithm not accepted")
	ErrSignature = errors.New("the signature does not verify")
	ErrDecrypt   = errors.New("cannot be decrypted")
)

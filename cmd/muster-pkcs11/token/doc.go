// Package token keeps private keys in a PKCS #11 token (OASIS PKCS #11 Specification Version 3.1), such as an HSM: it makes them,
// finds them by their labels, signs and decrypts. It needs cgo, and is empty without. muster-pkcs11 alone imports it.
package token

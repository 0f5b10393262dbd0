// Muster-pkcs11 is a CA plugin whose private keys are in a PKCS #11 token, such as an HSM: the CA that Muster brings along (its keys
// there, all else as docs/backends/local.md has it), keys of the gateway's own, or both. It is a program beside muster, since it needs
// cgo to load the vendor's module, and muster does not have it. Muster starts it, as `plugin: /path/of/muster-pkcs11` says; by hand it
// makes keys and requests for certificates (muster-pkcs11 request -h). docs/backends/pkcs11.md.
package main

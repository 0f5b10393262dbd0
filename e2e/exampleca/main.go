// Command exampleca is a whole CA plugin of a third party, in a module of its own: a P-256 root, and a file for each thing that it
// did. It uses of Muster what every plugin may: the package backend, strictyaml beside it, and backendtest in its test.
package main

import "github.com/muster-pki/muster/plugins/backend"

func main() { backend.Serve(newCA()) }

func newCA() backend.Backend { return &ca{} }

// Package host launches CA plugins, keeps them running and calls them. cmd/muster starts one Plugin for each
// configured backend; the gateway calls it as a backend.Backend and never learns that a process stands behind it.
//
// It decides nothing about certificates: what a plugin answers is bounded and parsed by backend.Client, and
// compared with the grant by the gateway. A plugin process is trusted with its CA and with nothing of the host's:
// it inherits neither environment nor descriptors, and nothing that it writes is taken for more than text.
package host

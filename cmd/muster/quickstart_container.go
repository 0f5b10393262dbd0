package main

import (
	"bytes"
	"fmt"
)

// containerConfig is quickstartConfig in a container: what it listens on inside is what is published from there, and 127.0.0.1 cannot be.
// The URLs in certificates stay: they are the host's, where the ports are published as they are.
func containerConfig(password, challenge string) []byte {
	return bytes.ReplaceAll(quickstartConfig(password, challenge), []byte("address: 127.0.0.1:"), []byte("address: 0.0.0.0:"))
}

// inContainer is a shell of the host of a container: one whose host name is its ID, which is what docker and podman give it unless told
// otherwise. There is no shell in the image, and its volume is root's on the host: what clients need is copied out.
func inContainer(q quickstart, name string) reach {
	id, data := shellQuoted(name), " --data "+shellQuoted(q.data)
	self := "docker exec " + id + " muster"
	return reach{
		where: " on this container's host (ports published elsewhere: MUSTER_HTTP, MUSTER_HTTPS)",
		settings: fmt.Sprintf("docker cp %s . && docker cp %s . && . ./quickstart.env && MUSTER_CA=roots.pem\n",
			id+":"+shellQuoted(q.env()), id+":"+shellQuoted(q.roots())),
		roots: "roots.pem", self: self, data: data,
		edit: "\n(docker run --rm -it --volumes-from " + id + " busybox vi " + shellQuoted(q.config()) + ")",
		scep: func(string) string {
			return "SCEP, with a device that Muster simulates:\n\n" + indent(self+" simulate enroll --protocol scep --devices 1"+data+"\n")
		},
	}
}

// shellQuoted is shellQuote, where it is needed.
func shellQuoted(s string) string {
	for _, c := range []byte(s) {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '/' || c == '.' || c == '-' || c == '_') {
			return shellQuote(s)
		}
	}
	return s
}

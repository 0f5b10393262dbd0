// Package backendpb is the wire form of the plugin contract, generated from backend.proto. Plugin authors in Go
// use package backend instead; authors in other languages generate their own from the same file.
package backendpb

// The path from the module's root names the file in protobuf's registry, where two files of one name collide.
//go:generate protoc --proto_path=../../../.. --go_out=../../../.. --go_opt=paths=source_relative --go-grpc_out=../../../.. --go-grpc_opt=paths=source_relative plugins/backend/backendpb/v1/backend.proto

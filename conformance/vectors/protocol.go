package main

import (
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
)

// What the documents speak of; no such node, issuer or workload exists.
const (
	nodeID     = "NNODE"
	issuerID   = "AISSUER"
	xkey       = "XNODE"
	machineID  = "cq2b5l6g10l0a0v6rd70"
	name       = "echofunctionjs"
	hash       = "4d21ab53a1f5b8e14b3a4e9d6e1f2c8e4b7a0d5f9c3e6b1a8d7f2e5c4b9a0d3f"
	nexVersion = "0.2.7"
	typePrefix = "io.nats.nex.v1."
)

var moment = time.Date(2024, time.July, 2, 15, 4, 5, 678_000_000, time.UTC)

func to[T any](value T) *T { return &value }

func parse(text string) *url.URL {
	parsed, err := url.Parse(text)
	if err != nil {
		panic(err)
	}
	return parsed
}

func success(name, kind string, data any) document {
	return encode(name, envelope{Type: typePrefix + kind, Data: data})
}

// failure is what a node sends when it refuses: the data is an empty byte slice, which Go writes as an empty string.
func failure(name, kind, text string) document {
	return encode(name, envelope{Type: typePrefix + kind, Data: []byte{}, Error: &text})
}

func protocolDocuments() []document {
	documents := requests()
	documents = append(documents, replies()...)
	documents = append(documents, refusals()...)
	documents = append(documents, locations()...)
	documents = append(documents, events()...)
	return append(documents, logs()...)
}

func requests() []document {
	deploy := deployRequest{
		Description:     to(""),
		Type:            "v8",
		Location:        asLocation(parse("nats://NEXCLIFILES/echofunctionjs")),
		Essential:       to(false),
		WorkloadJWT:     to("eyJ0eXAi.eyJzdWIi.c2ln"),
		Environment:     to("eGt2MQ=="),
		JsDomain:        to(""),
		SenderPublicKey: to("XSENDER"),
		TargetNode:      to(nodeID),
		TriggerSubjects: []string{"echo.*", "js.echo"},
	}
	full := deploy
	full.Argv = []string{"-v", "--port", "8080"}
	full.Description = to("echoes, \"as is\"\n\tin ünïcode")
	full.Type = "native"
	full.Location = asLocation(parse("nats://NEXCLIFILES/dir/echoservice"))
	full.Essential = to(true)
	full.JsDomain = to("hub")
	full.TriggerConnection = &connection{"nats://a:4222,nats://b:4222", "jwt", "seed"}
	full.RetryCount = to(uint(3))
	full.RetriedAt = &moment
	full.HostServices = &connection{"nats://c", "", ""}
	escapes := deploy
	escapes.Description = to("<a> & b\u2028\u2029")
	escapes.TriggerSubjects = []string{"orders.>"}
	return []document{
		encode("deploy_request", deploy),
		encode("deploy_request_full", full),
		encode("deploy_request_escapes", escapes),
		encode("deploy_request_nil", deployRequest{}),
		encode("deploy_request_rc1", deployRequestRC1{
			ID:                 to("5f0c1f3e-6b1d-4f5a-9c3e-2d7b8a9e0f11"),
			WorkloadName:       to(name),
			Hash:               to(hash),
			Type:               "v8",
			Location:           deploy.Location,
			WorkloadJWT:        deploy.WorkloadJWT,
			HostServicesConfig: full.HostServices,
		}),
		encode("stop_request", stopRequest{machineID, "eyJ0eXAi.eyJzdWIi.c2ln", nodeID}),
		encode("stop_request_rc1", stopRequestRC1{nodeID, machineID, "eyJ0eXAi.eyJzdWIi.c2ln"}),
		encode("auction_request", auctionRequest{
			Arch:          to("amd64"),
			OS:            to("linux"),
			Sandboxed:     to(false),
			Tags:          map[string]string{"zone": "eu", "gpu": "none"},
			WorkloadTypes: []string{"native", "wasm"},
		}),
		encode("auction_request_nil", auctionRequest{}),
	}
}

func replies() []document {
	ping := pingResponse{
		NodeID:          nodeID,
		Nexus:           "lab",
		Version:         nexVersion,
		Uptime:          "1y2d3h4m5s",
		TargetXkey:      xkey,
		Tags:            map[string]string{"nex.os": "linux", "nex.arch": "amd64", "node_name": "snowy-owl"},
		RunningMachines: 2,
	}
	short := ping
	short.Nexus, short.Tags, short.RunningMachines = "", nil, 0
	info := infoResponse{
		Version:    nexVersion,
		Uptime:     "4m5s",
		PublicXKey: xkey,
		Tags:       ping.Tags,
		Memory:     &memory{8_132_344, 1_024_000, 6_500_000},
		Machines: []machine{
			{machineID, true, "4m1s", "default", workload{name, "echoes", "3ms", "v8", hash}},
			{"cq2b5l6g10l0a0v6rd7g", true, "5s", "", workload{"echoservice", "", "5s", "native", hash}},
		},
		SupportedWorkloadTypes: []string{"native", "v8"},
	}
	return []document{
		success("ping_response", "ping_response", ping),
		success("ping_response_short", "ping_response", short),
		success("auction_response", "auction_response", ping),
		success("info_response", "info_response", info),
		success("info_response_nil", "info_response", infoResponse{Version: nexVersion, Uptime: "0s", PublicXKey: xkey}),
		success("run_response", "run_response", runResponse{true, machineID, issuerID, name}),
		success("stop_response", "stop_response", stopResponse{true, machineID, issuerID, name}),
		success("lameduck_response", "lameduck_response", lameDuckResponse{nodeID, true}),
		// What an encoder that leaves nothing out would send.
		encode("stop_response_null_error", struct {
			Type  string       `json:"type"`
			Data  stopResponse `json:"data"`
			Error *string      `json:"error"`
		}{typePrefix + "stop_response", stopResponse{true, machineID, issuerID, name}, nil}),
	}
}

func refusals() []document {
	return []document{
		failure("run_refused", "run_response", "Node is in lame duck mode. Workload deploy request denied"),
		failure("stop_refused", "stop_response", "No such workload"),
		failure("info_refused", "info_response", "Failed to extract namespace for info request"),
		failure("ping_refused", "ping_response", "Failed to query running machines on node"),
		failure("lameduck_refused", "lameduck_response", "Failed to enter lame duck mode"),
		failure("run_refused_escapes", "run_response", "Unsupported workload type on this node: <oci> & more"),
	}
}

func locations() []document {
	var documents []document
	for name, text := range map[string]string{
		"plain":          "nats://NEXCLIFILES/echoservice",
		"folder":         "nats://NEXCLIFILES/a/b.c/d",
		"space":          "nats://NEXCLIFILES/my%20key",
		"user_and_query": "nats://user:pass@NEXCLIFILES/echo?version=1#top",
		"file":           "file:///tmp/echo",
	} {
		documents = append(documents,
			encode("location_"+name, asLocation(parse(text))),
			encode("url_"+name, parse(text)))
	}
	slices.SortFunc(documents, func(a, b document) int { return strings.Compare(a.name, b.name) })
	return documents
}

func cloudEvent(kind, source, namespace string, data any) document {
	e := event.New()
	e.SetID("0d7f6c1e-7a54-4a1a-9a3b-6c1f5d2e8b90")
	e.SetSource(source)
	e.SetType(kind)
	e.SetTime(moment)
	if namespace != "" {
		e.SetExtension("namespace", namespace)
	}
	if err := e.SetData(event.ApplicationJSON, data); err != nil {
		panic(err)
	}
	return encode("event_"+kind, e)
}

func events() []document {
	const agent = nodeID + "-" + machineID
	tags := map[string]string{"zone": "eu"}
	return []document{
		cloudEvent("node_started", nodeID, "", nodeStarted{nexVersion, nodeID, tags}),
		cloudEvent("node_stopped", nodeID, "", nodeStopped{nodeID, true}),
		cloudEvent("node_entered_lameduck", nodeID, "", lameDuckEntered{nexVersion, nodeID}),
		cloudEvent("heartbeat", nodeID, "", heartbeat{nexVersion, nodeID, "", "30s", nil, 0}),
		cloudEvent("workload_deployed", agent, "default", workloadDeployed{name, 0}),
		cloudEvent("workload_undeployed", agent, "default", workloadUndeployed{name, 137, "exit status 137"}),
		cloudEvent("function_exec_succeeded", agent, "default",
			functionSucceeded{name, "js.echo", 1_234_567, "default"}),
		cloudEvent("function_exec_failed", agent, "default",
			functionFailed{name, "js.echo", "default", "TypeError: x is not a function"}),
	}
}

func logs() []document {
	var documents []document
	for _, level := range []slog.Level{
		slog.LevelDebug, slog.LevelInfo, slog.LevelInfo + 2, slog.LevelWarn, slog.LevelWarn + 1, slog.LevelError,
		slog.LevelError + 4, slog.LevelDebug - 4,
	} {
		documents = append(documents, encode(fmt.Sprintf("log_%s", level), struct {
			Text  string     `json:"text"`
			Level slog.Level `json:"level"`
			ID    string     `json:"id"`
		}{"listening on :8080", level, machineID}))
	}
	return documents
}

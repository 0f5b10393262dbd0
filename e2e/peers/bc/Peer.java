import java.security.Security;
import java.util.ArrayList;
import java.util.List;
import org.bouncycastle.asn1.cmp.ErrorMsgContent;
import org.bouncycastle.asn1.cmp.PKIBody;
import org.bouncycastle.asn1.cmp.PKIMessage;
import org.bouncycastle.asn1.cmp.PKIMessages;
import org.bouncycastle.asn1.cmp.RevDetails;
import org.bouncycastle.asn1.cmp.RevRepContent;
import org.bouncycastle.asn1.cmp.RevReqContent;
import org.bouncycastle.asn1.x509.CRLReason;
import org.bouncycastle.asn1.x509.Extension;
import org.bouncycastle.asn1.x509.Extensions;
import org.bouncycastle.cert.X509CertificateHolder;
import org.bouncycastle.cert.cmp.RevocationDetailsBuilder;
import org.bouncycastle.jce.provider.BouncyCastleProvider;

/**
 * A CMP client on BouncyCastle, as a second opinion: what it sends is built, and what it gets is verified, by that library and
 * the JDK. It prints what it saw, a line each, and fails where the server breaks the protocol. A refusal is no failure here.
 */
public final class Peer {
    public static void main(String[] args) throws Exception {
        Security.addProvider(new BouncyCastleProvider());
        Options o = new Options(args, 1);
        switch (args[0]) {
            case "enroll":
                new Enroll(o).run();
                break;
            case "poll":
                new Enroll(o).poll();
                break;
            case "nested":
                nested(o);
                break;
            case "batch":
                batch(o);
                break;
            case "rr":
                revoke(o);
                break;
            case "genm":
                General.ask(o);
                break;
            default:
                throw new IllegalArgumentException(args[0]);
        }
        Say.it("end", "ok");
    }

    /** An RA around the messages of one device: ir, then certConf (RFC 9810 section 5.1.3.5). */
    private static void nested(Options o) throws Exception {
        Client ra = new Client(o.without("secret"));
        Enroll device = new Enroll(o.without("cert").without("key"));
        X509CertificateHolder c = device.certificate(through(ra, device.client, device.request()));
        if (c != null) {
            Enroll.confirmed(through(ra, device.client, device.confirmation(c)));
        }
    }

    private static PKIBody through(Client ra, Client device, PKIBody body) throws Exception {
        PKIMessage inner = device.message(body);
        PKIMessage outer = ra.message(new PKIBody(PKIBody.TYPE_NESTED, new PKIMessages(inner)), device.transaction, device.nonce, device.peer);
        return device.take(ra.post(outer));
    }

    /** Three devices in one message, and their confirmations in another; what the second one's secret is, -second says. */
    private static void batch(Options o) throws Exception {
        Client ra = new Client(o.without("secret"));
        List<Enroll> devices = new ArrayList<>();
        List<PKIMessage> asked = new ArrayList<>();
        for (int i = 1; i <= 3; i++) {
            Options own = o.without("cert").without("key").with("subject", o.need("subject") + i);
            Enroll e = new Enroll(i == 2 && o.has("second") ? own.with("secret", o.get("second")) : own);
            devices.add(e);
            asked.add(e.client.message(e.request()));
        }
        PKIMessage[] answers = apart(ra, asked);
        List<Enroll> taken = new ArrayList<>();
        List<PKIMessage> confirmations = new ArrayList<>();
        for (int i = 0; i < 3; i++) {
            Enroll e = devices.get(i);
            X509CertificateHolder c = e.certificate(e.client.take(answers[i]));
            if (c != null) {
                taken.add(e);
                confirmations.add(e.client.message(e.confirmation(c)));
            }
        }
        answers = apart(ra, confirmations);
        for (int i = 0; i < taken.size(); i++) {
            Enroll.confirmed(taken.get(i).client.take(answers[i]));
        }
    }

    private static PKIMessage[] apart(Client ra, List<PKIMessage> messages) throws Exception {
        ra.transaction = Client.random(16);
        ra.peer = null;
        PKIBody body = ra.exchange(new PKIBody(PKIBody.TYPE_NESTED, new PKIMessages(messages.toArray(new PKIMessage[0]))));
        Say.must(body.getType() == PKIBody.TYPE_NESTED, "the answer to a batch is of type " + body.getType());
        PKIMessage[] answers = PKIMessages.getInstance(body.getContent()).toPKIMessageArray();
        Say.must(answers.length == messages.size(), answers.length + " answers");
        return answers;
    }

    private static void revoke(Options o) throws Exception {
        Client client = new Client(o);
        X509CertificateHolder old = Files.certificates(o.need("oldcert")).get(0);
        RevDetails details = new RevocationDetailsBuilder().setIssuer(old.getIssuer()).setSerialNumber(old.getSerialNumber()).build().toASN1Structure();
        if (o.has("reason")) {
            Extension reason = Extension.create(Extension.reasonCode, false, CRLReason.lookup(Integer.parseInt(o.get("reason"))));
            details = new RevDetails(details.getCertDetails(), new Extensions(reason));
        }
        PKIBody body = client.exchange(new PKIBody(PKIBody.TYPE_REVOCATION_REQ, new RevReqContent(details)));
        Say.it("body", body.getType());
        if (body.getType() == PKIBody.TYPE_ERROR) {
            Say.status(ErrorMsgContent.getInstance(body.getContent()).getPKIStatusInfo());
            return;
        }
        RevRepContent rep = RevRepContent.getInstance(body.getContent());
        Say.must(rep.getStatus().length == 1, "not one status");
        Say.status(rep.getStatus()[0]);
        if (rep.getRevCerts() != null) {
            Say.must(rep.getRevCerts()[0].getSerialNumber().hasValue(old.getSerialNumber()), "another certificate was revoked");
        }
    }
}

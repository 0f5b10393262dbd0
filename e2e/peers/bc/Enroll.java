import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.math.BigInteger;
import java.security.KeyFactory;
import java.security.KeyPair;
import java.security.PrivateKey;
import java.security.PublicKey;
import java.security.interfaces.ECKey;
import java.security.spec.X509EncodedKeySpec;
import java.util.Arrays;
import java.util.Base64;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import org.bouncycastle.asn1.ASN1Encodable;
import org.bouncycastle.asn1.ASN1ObjectIdentifier;
import org.bouncycastle.asn1.DERNull;
import org.bouncycastle.asn1.DERSequence;
import org.bouncycastle.asn1.DERUTF8String;
import org.bouncycastle.asn1.cmp.CMPObjectIdentifiers;
import org.bouncycastle.asn1.cmp.CertResponse;
import org.bouncycastle.asn1.cmp.CertifiedKeyPair;
import org.bouncycastle.asn1.cmp.ErrorMsgContent;
import org.bouncycastle.asn1.cmp.PKIBody;
import org.bouncycastle.asn1.cmp.PollRepContent;
import org.bouncycastle.asn1.cmp.PollReqContent;
import org.bouncycastle.asn1.crmf.CertId;
import org.bouncycastle.asn1.crmf.CertReqMessages;
import org.bouncycastle.asn1.crmf.CertReqMsg;
import org.bouncycastle.asn1.crmf.ProofOfPossession;
import org.bouncycastle.asn1.crmf.SubsequentMessage;
import org.bouncycastle.asn1.pkcs.CertificationRequest;
import org.bouncycastle.asn1.pkcs.PKCSObjectIdentifiers;
import org.bouncycastle.asn1.x500.X500Name;
import org.bouncycastle.asn1.x509.AlgorithmIdentifier;
import org.bouncycastle.asn1.x509.GeneralName;
import org.bouncycastle.asn1.x509.SubjectPublicKeyInfo;
import org.bouncycastle.cert.X509CertificateHolder;
import org.bouncycastle.cert.cmp.CertificateConfirmationContent;
import org.bouncycastle.cert.cmp.CertificateConfirmationContentBuilder;
import org.bouncycastle.cert.crmf.CertificateRepMessage;
import org.bouncycastle.cert.crmf.CertificateRequestMessageBuilder;
import org.bouncycastle.cert.crmf.CertificateResponse;
import org.bouncycastle.cert.crmf.Control;
import org.bouncycastle.cert.jcajce.JcaX509CertificateConverter;
import org.bouncycastle.operator.ContentSigner;
import org.bouncycastle.operator.jcajce.JcaContentSignerBuilder;
import org.bouncycastle.operator.jcajce.JcaDigestCalculatorProviderBuilder;
import org.bouncycastle.pkcs.PKCS10CertificationRequestBuilder;

/** One enrollment: the request, what comes back, and its confirmation. */
final class Enroll {
    private static final Map<String, Integer> BODIES = new HashMap<>();

    static {
        BODIES.put("ir", PKIBody.TYPE_INIT_REQ);
        BODIES.put("cr", PKIBody.TYPE_CERT_REQ);
        BODIES.put("kur", PKIBody.TYPE_KEY_UPDATE_REQ);
        BODIES.put("p10cr", PKIBody.TYPE_P10_CERT_REQ);
    }

    final Options o;
    final Client client;
    final int kind;
    KeyPair pair; // null when the gateway makes the key

    Enroll(Options o) throws Exception {
        this.o = o;
        client = new Client(o);
        kind = BODIES.get(o.get("body", "ir"));
        if (o.has("newkey")) {
            pair = Keys.generate(o.get("newkey"));
        }
        if (o.has("profile")) {
            client.ask(CMPObjectIdentifiers.id_it_certProfile, new DERSequence(new DERUTF8String(o.get("profile"))));
        }
        if (o.has("implicit")) {
            client.ask(CMPObjectIdentifiers.it_implicitConfirm, DERNull.INSTANCE);
        }
    }

    PKIBody request() throws Exception {
        X500Name subject = o.has("subject") ? new X500Name(o.get("subject")) : null;
        ContentSigner own = pair == null ? null
            : new JcaContentSignerBuilder(o.get("popsig", Keys.signature(pair.getPrivate()))).setProvider("BC").build(pair.getPrivate());
        SubjectPublicKeyInfo spki = pair == null ? null : SubjectPublicKeyInfo.getInstance(pair.getPublic().getEncoded());
        if (kind == PKIBody.TYPE_P10_CERT_REQ) {
            return new PKIBody(kind, CertificationRequest.getInstance(new PKCS10CertificationRequestBuilder(subject, spki).build(own).toASN1Structure()));
        }
        CertificateRequestMessageBuilder b = new CertificateRequestMessageBuilder(BigInteger.ZERO);
        if (subject != null) {
            b.setSubject(subject);
        }
        if (spki != null) {
            b.setPublicKey(spki);
        } else if (o.has("algorithm")) { // RFC 9483 section 4.1.6: the algorithm, with a key of length zero
            b.setPublicKey(new SubjectPublicKeyInfo(algorithm(o.get("algorithm")), new byte[0]));
        }
        if (o.has("oldcert")) {
            X509CertificateHolder old = Files.certificates(o.get("oldcert")).get(0);
            CertId id = new CertId(new GeneralName(old.getIssuer()), old.getSerialNumber());
            b.addControl(new Control() {
                public ASN1ObjectIdentifier getType() {
                    return CMPObjectIdentifiers.regCtrl_oldCertID;
                }

                public ASN1Encodable getValue() {
                    return id;
                }
            });
        }
        switch (o.get("pop", pair == null ? "none" : "signature")) {
            case "none":
                break;
            case "raverified":
                b.setProofOfPossessionRaVerified();
                break;
            case "encipherment":
                b.setProofOfPossessionSubsequentMessage(ProofOfPossession.TYPE_KEY_ENCIPHERMENT, SubsequentMessage.encrCert);
                break;
            case "agreement":
                b.setProofOfPossessionSubsequentMessage(ProofOfPossession.TYPE_KEY_AGREEMENT, SubsequentMessage.encrCert);
                break;
            case "sender": // poposkInput with the authenticated name: for templates without a subject
                b.setAuthInfoSender(o.has("popsender") ? new GeneralName(new X500Name(o.get("popsender"))) : client.sender());
                b.setProofOfPossessionSigningKeySigner(own);
                break;
            case "mac": // poposkInput with a MAC over the key
                b.setAuthInfoPKMAC(client.passwordMAC(), o.get("popsecret", new String(client.secret == null ? new char[0] : client.secret)).toCharArray());
                b.setProofOfPossessionSigningKeySigner(own);
                break;
            default:
                b.setProofOfPossessionSigningKeySigner(own);
        }
        CertReqMsg message = b.build().toASN1Structure();
        // Where it is given no key the builder says raVerified.
        return new PKIBody(kind, new CertReqMessages(message));
    }

    private static AlgorithmIdentifier algorithm(String name) throws Exception {
        return name.startsWith("RSA") ? new AlgorithmIdentifier(PKCSObjectIdentifiers.rsaEncryption, DERNull.INSTANCE)
            : SubjectPublicKeyInfo.getInstance(Keys.generate(name).getPublic().getEncoded()).getAlgorithm();
    }

    /** From the request to the confirmation; or up to "waiting", with what polling takes in a file. */
    void run() throws Exception {
        finish(client.exchange(request()));
    }

    void finish(PKIBody body) throws Exception {
        X509CertificateHolder certificate = certificate(body);
        if (certificate == null) {
            return;
        }
        if (o.has("implicit") || o.get("confirm", "yes").equals("no")) {
            return;
        }
        confirmed(client.exchange(confirmation(certificate)));
    }

    PKIBody confirmation(X509CertificateHolder certificate) throws Exception {
        BigInteger id = kind == PKIBody.TYPE_P10_CERT_REQ ? BigInteger.ONE.negate() : BigInteger.ZERO;
        CertificateConfirmationContent content = new CertificateConfirmationContentBuilder().addAcceptedCertificate(certificate, id)
            .build(new JcaDigestCalculatorProviderBuilder().setProvider("BC").build());
        client.info.clear();
        return new PKIBody(PKIBody.TYPE_CERT_CONFIRM, content.toASN1Structure());
    }

    static void confirmed(PKIBody body) {
        Say.it("confirmed", body.getType() == PKIBody.TYPE_CONFIRM);
        if (body.getType() == PKIBody.TYPE_ERROR) {
            Say.status(ErrorMsgContent.getInstance(body.getContent()).getPKIStatusInfo());
        }
    }

    /** The certificate in an answer, verified and written down; null when there is none. */
    X509CertificateHolder certificate(PKIBody body) throws Exception {
        Say.it("body", body.getType());
        if (body.getType() == PKIBody.TYPE_ERROR) {
            Say.status(ErrorMsgContent.getInstance(body.getContent()).getPKIStatusInfo());
            return null;
        }
        if (body.getType() == PKIBody.TYPE_POLL_REP) {
            Say.it("checkAfter", PollRepContent.getInstance(body.getContent()).getCheckAfter(0));
            save();
            return null;
        }
        int answer = kind == PKIBody.TYPE_P10_CERT_REQ ? PKIBody.TYPE_CERT_REP : kind + 1;
        Say.must(body.getType() == answer, "the answer is of type " + body.getType());
        CertificateRepMessage rep = CertificateRepMessage.fromPKIBody(body);
        Say.must(rep.getResponses().length == 1, "several responses");
        CertificateResponse response = rep.getResponses()[0];
        CertResponse raw = response.toASN1Structure();
        Say.it("certReqId", raw.getCertReqId());
        Say.it("caPubs", rep.toASN1Structure().getCaPubs() == null ? 0 : rep.getCMPCertificates().length);
        int status = Say.status(raw.getStatus());
        if (status == 3) { // waiting
            save();
            return null;
        }
        if (status > 1) {
            return null;
        }
        CertifiedKeyPair issued = raw.getCertifiedKeyPair();
        X509CertificateHolder c;
        if (response.hasEncryptedCertificate()) {
            c = Sealed.certificate(response, pair.getPrivate());
        } else {
            c = new X509CertificateHolder(response.getCertificate().getX509v3PKCert());
        }
        Files.chain(c, client.received, client.roots);
        PrivateKey key;
        if (pair == null) {
            Say.must(issued.getPrivateKey() != null, "no private key in the answer");
            key = Sealed.key(issued.getPrivateKey(), client);
        } else {
            Say.must(issued.getPrivateKey() == null, "a private key that was not asked for");
            key = pair.getPrivate();
            Say.must(Arrays.equals(c.getSubjectPublicKeyInfo().getEncoded(), pair.getPublic().getEncoded()), "a certificate for another key");
        }
        Say.must(Keys.match(key, new JcaX509CertificateConverter().setProvider("BC").getCertificate(c).getPublicKey()), "the key is not the certificate's");
        Say.it("subject", c.getSubject());
        Say.it("serial", c.getSerialNumber().toString(16));
        Say.it("key", key instanceof ECKey ? "EC" : key.getAlgorithm());
        if (o.has("certout")) {
            Files.write(o.get("certout"), c);
        }
        if (o.has("keyout")) {
            Files.write(o.get("keyout"), key);
        }
        return c;
    }

    /** What another run of this program takes to go on: transaction, nonces, key. */
    private void save() throws Exception {
        Properties p = new Properties();
        p.setProperty("transaction", Base64.getEncoder().encodeToString(client.transaction));
        p.setProperty("peer", Base64.getEncoder().encodeToString(client.peer));
        if (pair != null) {
            p.setProperty("public", Base64.getEncoder().encodeToString(pair.getPublic().getEncoded()));
            p.setProperty("algorithm", pair.getPublic().getAlgorithm());
            Files.write(o.need("state") + ".key", pair.getPrivate());
        }
        try (FileOutputStream out = new FileOutputStream(o.need("state"))) {
            p.store(out, null);
        }
    }

    /** Goes on where another run was told to wait: asks once. */
    void poll() throws Exception {
        Properties p = new Properties();
        try (FileInputStream in = new FileInputStream(o.need("state"))) {
            p.load(in);
        }
        client.transaction = Base64.getDecoder().decode(p.getProperty("transaction"));
        client.peer = Base64.getDecoder().decode(p.getProperty("peer"));
        if (p.containsKey("public")) {
            PublicKey key = KeyFactory.getInstance(p.getProperty("algorithm"), "BC")
                .generatePublic(new X509EncodedKeySpec(Base64.getDecoder().decode(p.getProperty("public"))));
            pair = new KeyPair(key, Files.key(o.need("state") + ".key"));
        }
        finish(client.exchange(new PKIBody(PKIBody.TYPE_POLL_REQ, new PollReqContent(BigInteger.ZERO))));
    }
}
